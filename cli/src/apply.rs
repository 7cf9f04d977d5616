//! `anabranch apply`: declares resources.

use std::io::Read;
use std::path::{Path, PathBuf};

use anabranch_schemas::resources::Resource;
use anyhow::{Context, Result};
use reqwest::header::ETAG;
use reqwest::{Method, Response, StatusCode};
use serde::Deserialize;
use serde_json::Value;

use crate::client::{AdminFlags, Client};
use crate::failure::{Exit, Failure};
use crate::output::print;

/// Declare resources: what is in the file is made so. Applying a file twice changes nothing.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A YAML file of one or more resources; '-' reads stdin.
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// Take store nodes out of a partition also if none that stays is known to have its data: what
    /// only they have is lost.
    #[arg(long)]
    lose: bool,
    #[command(flatten)]
    admin: AdminFlags,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let Args { file, lose, admin } = args;
    let text = read(&file)?;
    // All are checked before the first is applied.
    let resources = parse(&text).with_context(|| format!("apply {}", file.display()))?;
    let client = admin.client()?;
    for resource in &resources {
        let id = resource.id();
        let change = put(&client, resource, lose).await.with_context(|| format!("apply {id}"))?;
        print(format_args!("{id} {change}"))?;
    }
    Ok(())
}

fn read(file: &Path) -> Result<String> {
    let text = if file.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(file)
    };
    text.map_err(|error| Failure::usage(format!("read {}: {error}", file.display())).into())
}

/// The resources in YAML text, checked.
pub(crate) fn parse(text: &str) -> Result<Vec<Resource>> {
    let mut resources = Vec::new();
    for (number, document) in serde_norway::Deserializer::from_str(text).enumerate() {
        let number = number + 1;
        // Of a JSON object the last of two equal names would win, without a word.
        let value = serde_norway::Value::deserialize(document);
        let value = value.and_then(serde_norway::from_value::<Value>).map_err(|error| {
            Failure::new(Exit::Refused, format!("document {number} is not YAML: {error}"))
        })?;
        // Nothing stands before the first '---' or after the last.
        if value.is_null() {
            continue;
        }
        let resource = Resource::from_value(&value).map_err(|error| {
            let hint = error.hint.clone();
            Failure { exit: Exit::Refused, message: format!("document {number}: {error}"), hint }
        })?;
        if resources.iter().any(|before: &Resource| before.id() == resource.id()) {
            let message = format!("document {number}: {} is in the file twice", resource.id());
            return Err(Failure::new(Exit::Refused, message).into());
        }
        resources.push(resource);
    }
    if resources.is_empty() {
        return Err(Failure::new(Exit::Refused, "there is no resource in it").into());
    }
    Ok(resources)
}

/// Declares one resource, and says what that changed. A cluster may `lose` what only nodes have
/// that leave it.
pub(crate) async fn put(client: &Client, resource: &Resource, lose: bool) -> Result<&'static str> {
    let path = format!("/api/v1/resources/{}", resource.id().key());
    let before = client.request(Method::GET, &path).send().await.ok();
    let put = client.request(Method::PUT, &path).query(&[("lose", lose)]);
    let put = put.json(&resource.to_value());
    let after = client.send(put).await?;
    let version = |response: &Response| response.headers().get(ETAG).cloned();
    Ok(if after.status() == StatusCode::CREATED {
        "created"
    } else if before.as_ref().and_then(version) == version(&after) {
        "unchanged"
    } else {
        "changed"
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Shown;

    const GOOD: &str = "
apiVersion: anabranch/v1
kind: Replication
metadata: { name: japanese-cars, app: 2164bef3-37c0-489c-9ac6-c94b034525d7 }
spec:
  connections: [\"west.example:4040\"]
  subscriptions: { queriesByCollection: { cars: [\"Origin = 'Japan'\"] } }
";

    const CLUSTER: &str = "
apiVersion: anabranch/v1
kind: Cluster
metadata: { name: east }
spec:
  partitions:
    - weight: 3
      nodes: { a1: 10.0.0.1:7070, a2: 10.0.0.2:7070 }
    - nodes: { b1: 10.0.0.3:7070 }
";

    #[test]
    fn a_name_stands_once_in_an_object() {
        let text = CLUSTER.replace("a2: 10.0.0.2:7070", "a1: 10.0.0.2:7070");
        let refused = parse(&text).unwrap_err().to_string();
        assert!(refused.contains("duplicate") && refused.contains("a1"), "{refused}");
    }

    #[test]
    fn several_documents_are_read() {
        let text = format!("---{GOOD}---{CLUSTER}---{}", GOOD.replace("japanese-cars", "cars"));
        let keys: Vec<_> = parse(&text).unwrap().iter().map(|r| r.id().key()).collect();
        let app = "replication/2164bef3-37c0-489c-9ac6-c94b034525d7";
        let expected =
            [format!("{app}/japanese-cars"), "cluster/east".into(), format!("{app}/cars")];
        assert_eq!(keys, expected);
    }

    #[test]
    fn a_mistake_is_told_with_its_place() {
        let text = format!("{GOOD}---{}", GOOD.replace("subscriptions", "subscription"));
        let error = Shown(&parse(&text).unwrap_err()).to_string();
        assert!(error.contains("document 2: spec"), "{error}");
        let text = CLUSTER.replace("10.0.0.3:7070", "10.0.0.3");
        let error = Shown(&parse(&text).unwrap_err()).to_string();
        let told = "document 1: spec.partitions[1].nodes.b1: '10.0.0.3' is not host:port";
        assert!(error.contains(told), "{error}");
        let refused = parse(&format!("{CLUSTER}---{GOOD}---{CLUSTER}")).unwrap_err().to_string();
        assert!(refused.contains("document 3: Cluster east is in the file twice"), "{refused}");
        assert!(parse("a: [").is_err());
        assert!(parse("\n").is_err());
    }
}

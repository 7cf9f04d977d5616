//! `anabranch get`: shows declared resources.

use anabranch_schemas::resources::Kind;
use anyhow::{Context, Result};
use clap::ValueEnum;
use reqwest::Method;
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use crate::client::{AdminFlags, Client};
use crate::failure::{Exit, Failure};
use crate::output::{Table, print};

/// Show declared resources: all, those of a kind, or one.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Their kind, such as 'replications' or 'cluster'.
    kind: Option<String>,
    /// The name of one.
    name: Option<String>,
    /// Only those of this app; a cluster is of none.
    #[arg(long, value_name = "UUID")]
    app: Option<Uuid>,
    /// How to show them; several are a table by default, one is YAML.
    #[arg(long, short)]
    output: Option<Format>,
    #[command(flatten)]
    admin: AdminFlags,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Table,
    Yaml,
    Json,
}

#[derive(Deserialize)]
struct Listed {
    items: Vec<Value>,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let Args { kind, name, app, output, admin } = args;
    let kind = match kind {
        None => None,
        Some(text) => Some(text.parse::<Kind>().map_err(|error| {
            let hint = error.hint.clone();
            Failure { exit: Exit::Usage, message: error.to_string(), hint }
        })?),
    };
    let client = admin.client()?;
    let all = listed(&client, "/api/v1/resources").await?;
    let wanted = all.into_iter().filter(|item| {
        let metadata = &item["metadata"];
        kind.is_none_or(|kind| item["kind"] == kind.as_str())
            && name.as_ref().is_none_or(|name| metadata["name"] == name.as_str())
            && app.is_none_or(|app| metadata["app"] == app.to_string())
    });
    let wanted: Vec<Value> = wanted.collect();
    if let (Some(kind), Some(name), true) = (kind, &name, wanted.is_empty()) {
        let failure = Failure::new(Exit::Refused, format!("there is no {kind} named '{name}'"));
        return Err(failure.with_hint("list what there is with 'anabranch get'").into());
    }
    match output.unwrap_or(if name.is_some() { Format::Yaml } else { Format::Table }) {
        Format::Table => print(table(&wanted)),
        Format::Json => wanted.iter().try_for_each(print),
        Format::Yaml => {
            let documents: Result<Vec<_>, _> = wanted.iter().map(serde_norway::to_string).collect();
            let text = documents.context("write YAML")?.join("---\n");
            print(text.trim_end())
        }
    }
}

/// The resources that a server lists at a path.
pub(crate) async fn listed(client: &Client, path: &str) -> Result<Vec<Value>> {
    let listed: Listed = client.json(client.request(Method::GET, path)).await?;
    Ok(listed.items)
}

fn table(resources: &[Value]) -> Table {
    let mut table = Table::new(&["KIND", "APP", "NAME", "STATUS"]);
    for value in resources {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let metadata = &value["metadata"];
        let status = value.get("status").filter(|status| !status.is_null());
        table.row([
            text(&value["kind"]),
            text(&metadata["app"]),
            text(&metadata["name"]),
            status.map(summary).unwrap_or_default(),
        ]);
    }
    table
}

/// A status on one line.
fn summary(status: &Value) -> String {
    match status["partitions"].as_array() {
        Some(partitions) => summary_of_cluster(&status["epoch"], partitions),
        // A key has a state and nothing else.
        None => summary_of_replication(status),
    }
}

fn summary_of_cluster(epoch: &Value, partitions: &[Value]) -> String {
    let nodes = partitions.iter().filter_map(|partition| partition["nodes"].as_array());
    let nodes: usize = nodes.map(Vec::len).sum();
    format!("epoch {epoch}: {} partitions, {nodes} nodes", partitions.len())
}

/// How far it is, which is in the log, and what a process with a bridge knows of the link.
fn summary_of_replication(status: &Value) -> String {
    let text = |path| status.pointer(path).and_then(Value::as_str);
    let link = match (text("/link/connected/cluster"), text("/link/lastError")) {
        (Some(cluster), _) => Some(format!("connected to {cluster}")),
        (None, Some(error)) => Some(format!("not connected: {error}")),
        (None, None) => None,
    };
    let state = text("/state").map(|state| match text("/error") {
        Some(error) => format!("{state}: {error}"),
        None => state.to_owned(),
    });
    state.into_iter().chain(link).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_status_begins_with_what_the_log_says() {
        let status = json!({"state": "following", "remotes": []});
        assert_eq!(summary(&status), "following");
        let link = json!({"connected": {"cluster": "west"}, "lastError": "broken once"});
        let status = json!({"state": "following", "link": link});
        assert_eq!(summary(&status), "following; connected to west");
        let link = json!({"connected": null, "lastError": "nobody answers"});
        let status = json!({"state": "unknown", "error": "no log", "link": link});
        assert_eq!(summary(&status), "unknown: no log; not connected: nobody answers");
    }
    #[test]
    fn a_cluster_has_no_app_and_says_its_epoch() {
        let status = json!({"epoch": 3, "partitions": [{"nodes": ["a", "b"]}, {"nodes": ["c"]}]});
        let cluster = json!({"kind": "Cluster", "metadata": {"name": "east"}, "status": status});
        let shown = table(&[cluster]).to_string();
        let row: Vec<_> = shown.lines().last().unwrap().split_whitespace().collect();
        assert_eq!(row, ["Cluster", "east", "epoch", "3:", "2", "partitions,", "3", "nodes"]);
    }
}

//! `anabranch demo-walk`: loads the cars into one cluster and follows them into another. Run by
//! `anabranch dev --demo` and by the demo on Kafka.
//!
//! Each step is taken only if the documents show that it was not taken before: a second walk over
//! the same data finds everything done, checks it and changes nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::client::{Client, EXAMPLE_APP, KeyFlags};
use crate::load::{self, Target};
use crate::output::print;

/// 406 cars, from the npm package vega-datasets.
const CARS: &[u8] = include_bytes!("../../tests/fixtures/cars.json");
const CARS_COUNT: usize = 406;
const JAPANESE_COUNT: usize = 79;

/// The one that the walk takes out of the filter, a toyota corona mark ii.
const LEAVES: &str = "row-000021";
/// The one that the walk deletes, a datsun pl510.
const DELETED: &str = "row-000025";

/// How long a cluster may take to show what was written.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// Load the cars into cluster east and follow the Japanese ones into west, step by step. Both must
/// run and have a Replication of "Origin = 'Japan'".
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// HTTP API of cluster east.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    east: String,
    /// HTTP API of cluster west.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8090")]
    west: String,
    /// The app whose documents they are.
    #[arg(long, value_name = "UUID", default_value_t = EXAMPLE_APP)]
    app: Uuid,
    #[command(flatten)]
    key: KeyFlags,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let Args { east, west, app, key } = args;
    let walk = Walk { east: key.client(&east)?, west: key.client(&west)?, app };
    walk.all().await
}

/// A walk through two clusters.
pub(crate) struct Walk {
    pub(crate) east: Client,
    pub(crate) west: Client,
    pub(crate) app: Uuid,
}

/// Documents by id.
type Cars = BTreeMap<String, Value>;

fn japanese(cars: &Cars) -> Cars {
    let japanese = cars.iter().filter(|(_, car)| car["Origin"] == "Japan");
    japanese.map(|(id, car)| (id.clone(), car.clone())).collect()
}

/// Steps that are to be taken.
struct Steps {
    load: bool,
    update: bool,
    delete: bool,
}

impl Steps {
    /// What earlier walks left to do, as the cars show that are `there`.
    fn left(all: &Cars, there: &Cars) -> Self {
        let load = all.keys().any(|id| id != DELETED && !there.contains_key(id));
        // Documents are loaded in order, so those that are changed come before the last.
        let has_left = there.get(LEAVES).is_some_and(|car| car["Origin"] != "Japan");
        let update = load || !has_left;
        Steps { load, update, delete: load || there.contains_key(DELETED) }
    }

    fn any(&self) -> bool {
        self.load || self.update || self.delete
    }
}

impl Walk {
    /// Takes all steps, and tells of each once it is verified.
    pub(crate) async fn all(&self) -> Result<()> {
        let mut expected = fixture()?;
        let there = self.ready(&self.east).await?;
        let steps = Steps::left(&expected, &there);
        if !steps.any() {
            return self.look_again(&there).await;
        }
        if steps.load {
            self.load().await.context("load the cars into east")?;
        }
        if !steps.update {
            expected.insert(LEAVES.to_owned(), there[LEAVES].clone());
        }
        if !steps.delete {
            expected.remove(DELETED);
        }
        self.verify("the Japanese ones are in west", &expected).await?;
        if steps.update {
            self.change(&format!("UPDATE cars SET Origin = 'USA' WHERE _id = '{LEAVES}'")).await?;
            expected.entry(LEAVES.to_owned()).and_modify(|car| car["Origin"] = json!("USA"));
            self.verify("west forgot the car that left the filter", &expected).await?;
        }
        if steps.delete {
            self.change(&format!("DELETE FROM cars WHERE _id = '{DELETED}'")).await?;
            expected.remove(DELETED);
            self.verify("the delete arrived in west", &expected).await?;
        }
        Ok(())
    }

    /// After an earlier walk. Whoever ran it may have changed the cars since.
    async fn look_again(&self, east: &Cars) -> Result<()> {
        print(format_args!("east: {} cars, from an earlier run", east.len()))?;
        let wanted = japanese(east);
        self.until(&self.west, &wanted).await.context("the Japanese ones are in west")?;
        let (update, delete) = (JAPANESE_COUNT - 1, JAPANESE_COUNT - 2);
        print(format_args!(
            "west: {} cars, the Japanese ones; after the load there were {JAPANESE_COUNT}, after \
             the update {update}, after the delete {delete}",
            wanted.len()
        ))
    }

    async fn load(&self) -> Result<()> {
        let target = Target {
            client: &self.east,
            app: self.app,
            collection: "cars",
            id: None,
            patience: PATIENCE,
        };
        let mut refused = Vec::new();
        let begun = Instant::now();
        let summary = load::load(&target, CARS, |event| {
            if let load::Event::Refused(row) = event {
                refused.push(row.message);
            }
        })
        .await?;
        ensure!(refused.is_empty(), "cars were refused: {}", refused.join("; "));
        let (count, ms) = (summary.written, begun.elapsed().as_millis());
        print(format_args!("east: {count} cars loaded in {ms} ms"))
    }

    async fn change(&self, statement: &str) -> Result<()> {
        let executed = self.east.execute(self.app, statement, &json!({})).await;
        let executed = executed.with_context(|| format!("run {statement}"))?;
        ensure!(executed.mutated_document_ids.len() == 1, "{statement}: changed nothing");
        print(format_args!("east: {statement}"))
    }

    /// Waits until east has exactly `expected`, and west exactly those that are Japanese.
    async fn verify(&self, what: &str, expected: &Cars) -> Result<()> {
        let begun = Instant::now();
        self.until(&self.east, expected).await?;
        let japanese = japanese(expected);
        self.until(&self.west, &japanese).await.with_context(|| what.to_owned())?;
        let (count, ms) = (japanese.len(), begun.elapsed().as_millis());
        print(format_args!("west: {count} cars after {ms} ms: {what}"))
    }

    /// Waits until a cluster has exactly these cars.
    async fn until(&self, cluster: &Client, expected: &Cars) -> Result<()> {
        let begun = Instant::now();
        loop {
            let found = self.cars(cluster).await;
            if found.as_ref().is_ok_and(|found| found == expected) {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                let server = cluster.server();
                let found = found.with_context(|| format!("read the cars of {server}"))?;
                let missing = expected.keys().filter(|id| !found.contains_key(*id)).count();
                let more = found.keys().filter(|id| !expected.contains_key(*id)).count();
                anyhow::bail!(
                    "{server} does not show the {} cars expected after {} s: it has {}; {missing} \
                     are missing, {more} should not be there",
                    expected.len(),
                    PATIENCE.as_secs(),
                    found.len(),
                );
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The cars of a cluster that may still be starting.
    async fn ready(&self, cluster: &Client) -> Result<Cars> {
        let begun = Instant::now();
        loop {
            match self.cars(cluster).await {
                Err(_) if begun.elapsed() < PATIENCE => tokio::time::sleep(POLL).await,
                cars => return cars,
            }
        }
    }

    async fn cars(&self, cluster: &Client) -> Result<Cars> {
        let executed = cluster.execute(self.app, "SELECT * FROM cars", &json!({})).await?;
        executed
            .items
            .into_iter()
            .map(|car| {
                let id = car["_id"].as_str().context("a car has no _id")?.to_owned();
                Ok((id, car))
            })
            .collect()
    }

    /// Commands to go on with.
    pub(crate) fn hints(&self, key_file: Option<&Path>) -> Vec<String> {
        let (east, west, app) = (self.east.server(), self.west.server(), self.app);
        let select = r#"{"statement": "SELECT * FROM cars WHERE Cylinders = 3"}"#;
        let insert = r#"{"statement": "INSERT INTO cars DOCUMENTS (:car) ON ID CONFLICT DO UPDATE", "args": {"car": {"_id": "mine", "Name": "mazda mx-5", "Origin": "Japan"}}}"#;
        vec![
            "# those with three cylinders, in west".to_owned(),
            execute(west, app, key_file, select),
            "# a write in west ...".to_owned(),
            execute(west, app, key_file, insert),
            "# ... comes to east".to_owned(),
            read(east, app, key_file, "mine"),
        ]
    }
}

/// A command line that runs a statement. `body` is JSON without a single quote.
pub(crate) fn execute(server: &str, app: Uuid, key_file: Option<&Path>, body: &str) -> String {
    let key = header(key_file);
    format!(
        "curl -sw '\\n' {server}/apps/{app}/api/v1/store/execute{key} \
         -H 'content-type: application/json' -d '{body}'"
    )
}

/// A command line that reads a car.
pub(crate) fn read(server: &str, app: Uuid, key_file: Option<&Path>, id: &str) -> String {
    let key = header(key_file);
    format!("curl -sw '\\n' {server}/apps/{app}/api/v1/collections/cars/documents/{id}{key}")
}

/// What shows the key in a file.
fn header(key_file: Option<&Path>) -> String {
    let show = |file: &Path| format!(" -H \"Authorization: Bearer $(cat {})\"", file.display());
    key_file.map(show).unwrap_or_default()
}

/// The cars as they are after loading.
fn fixture() -> Result<Cars> {
    let cars: Vec<Value> = serde_json::from_slice(CARS).context("read the cars")?;
    let cars: Cars = cars
        .into_iter()
        .enumerate()
        .map(|(index, mut car)| {
            let id = format!("row-{:06}", index + 1);
            car["_id"] = Value::String(id.clone());
            (id, car)
        })
        .collect();
    ensure!(
        cars.len() == CARS_COUNT && japanese(&cars).len() == JAPANESE_COUNT,
        "the cars are not the cars"
    );
    Ok(cars)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cars_of_the_walk_are_what_it_takes_them_for() {
        let cars = fixture().unwrap();
        assert_eq!(cars[LEAVES]["Name"], "toyota corona mark ii");
        assert_eq!(cars[DELETED]["Name"], "datsun pl510");
        assert!([LEAVES, DELETED].iter().all(|id| cars[*id]["Origin"] == "Japan"));
    }

    #[test]
    fn a_walk_goes_on_where_the_last_one_stopped() {
        let all = fixture().unwrap();
        let left = |there: &Cars| {
            let Steps { load, update, delete } = Steps::left(&all, there);
            (load, update, delete)
        };
        let mut there = Cars::new();
        assert_eq!(left(&there), (true, true, true));
        there.clone_from(&all);
        assert_eq!(left(&there), (false, true, true));
        there.get_mut(LEAVES).unwrap()["Origin"] = json!("USA");
        assert_eq!(left(&there), (false, false, true));
        there.remove(DELETED);
        assert_eq!(left(&there), (false, false, false));
    }
}

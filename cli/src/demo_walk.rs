//! `anabranch demo-walk`: loads the cars into one cluster and follows them into another. Run by
//! `anabranch dev --demo` and by the demo on Kafka.
//!
//! Each step is taken only if the documents show that it was not taken before: a second walk over
//! the same data finds everything done, checks it and changes nothing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::client::{Client, EXAMPLE_APP};
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
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let Args { east, west, app } = args;
    let walk = Walk { east: Client::new(&east)?, west: Client::new(&west)?, app };
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

impl Walk {
    /// Takes all steps, and tells of each once it is verified.
    pub(crate) async fn all(&self) -> Result<()> {
        let mut expected = fixture()?;
        self.load(&expected).await.context("load the cars into east")?;
        let mut there = self.cars(&self.east).await?;
        // What an earlier walk did shows in east.
        if there.get(LEAVES).is_some_and(|car| car["Origin"] != "Japan") {
            expected.insert(LEAVES.to_owned(), there[LEAVES].clone());
        }
        if !there.contains_key(DELETED) {
            expected.remove(DELETED);
        }
        self.verify("the Japanese ones are in west", &expected).await?;

        if there.get(LEAVES).is_some_and(|car| car["Origin"] == "Japan") {
            let change = format!("UPDATE cars SET Origin = 'USA' WHERE _id = '{LEAVES}'");
            self.change(&change).await?;
            there = self.cars(&self.east).await?;
            expected.insert(LEAVES.to_owned(), there[LEAVES].clone());
            self.verify("west forgot the car that left the filter", &expected).await?;
        }
        if there.contains_key(DELETED) {
            self.change(&format!("DELETE FROM cars WHERE _id = '{DELETED}'")).await?;
            expected.remove(DELETED);
            self.verify("the delete arrived in west", &expected).await?;
        }
        Ok(())
    }

    async fn load(&self, fixture: &Cars) -> Result<()> {
        let there = self.ready(&self.east).await?;
        let missing = fixture.keys().filter(|id| !there.contains_key(*id));
        if missing.clone().all(|id| id == DELETED) && !there.is_empty() {
            return print(format_args!(
                "east: the {} cars of an earlier run are there",
                there.len()
            ));
        }
        let target = Target {
            client: &self.east,
            app: self.app,
            collection: "cars",
            id: None,
            patience: PATIENCE,
        };
        let mut refused = Vec::new();
        let begun = Instant::now();
        load::load(&target, CARS, |event| {
            if let load::Event::Refused(row) = event {
                refused.push(row.message);
            }
        })
        .await?;
        ensure!(refused.is_empty(), "cars were refused: {}", refused.join("; "));
        self.until(&self.east, fixture).await?;
        print(format_args!("east: {CARS_COUNT} cars loaded in {} ms", begun.elapsed().as_millis()))
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
        let japanese: Cars = expected
            .iter()
            .filter(|(_, car)| car["Origin"] == "Japan")
            .map(|(id, car)| (id.clone(), car.clone()))
            .collect();
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
    pub(crate) fn hints(&self) -> Vec<String> {
        let (east, west, app) = (self.east.server(), self.west.server(), self.app);
        let select = json!({ "statement": "SELECT * FROM cars WHERE Cylinders = 3" });
        let insert = json!({
            "statement": "INSERT INTO cars DOCUMENTS (:car) ON ID CONFLICT DO UPDATE",
            "args": { "car": { "_id": "mine", "Name": "mazda mx-5", "Origin": "Japan" } },
        });
        let execute = "api/v1/store/execute -H 'content-type: application/json'";
        vec![
            format!("# the cars with three cylinders that are in west"),
            format!("curl -s {west}/apps/{app}/{execute} -d {}", quoted(&select)),
            format!("# a write in west ..."),
            format!("curl -s {west}/apps/{app}/{execute} -d {}", quoted(&insert)),
            format!("# ... comes to east"),
            format!("curl -s {east}/apps/{app}/api/v1/collections/cars/documents/mine"),
        ]
    }
}

/// JSON as one word of a shell.
pub(crate) fn quoted(value: &Value) -> String {
    format!("'{}'", value.to_string().replace('\'', r"'\''"))
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
    let japanese = cars.values().filter(|car| car["Origin"] == "Japan").count();
    ensure!(cars.len() == CARS_COUNT && japanese == JAPANESE_COUNT, "the cars are not the cars");
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
    fn json_is_quoted_for_a_shell() {
        assert_eq!(quoted(&json!("it's")), r#"'"it'\''s"'"#);
    }
}

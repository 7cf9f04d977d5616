//! What must happen between two clusters, whatever log they are on.

use std::collections::BTreeMap;

use anabranch_tests::cluster::{Api, PATIENCE};
use anabranch_tests::support::wait_until;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

const CARS: &str = include_str!("../fixtures/cars.json");
const JAPANESE: usize = 79;

/// The cars, numbered.
fn cars() -> Result<Vec<Value>> {
    let mut cars: Vec<Value> = serde_json::from_str(CARS)?;
    for (number, car) in cars.iter_mut().enumerate() {
        car["_id"] = json!(format!("car-{number}"));
    }
    Ok(cars)
}

/// Waits until west has exactly these documents.
fn wait_for(west: &Api, collection: &str, expected: &BTreeMap<String, Value>) -> Result<()> {
    let same = || Ok(west.documents(collection).is_ok_and(|found| &found == expected));
    let what = format!("{} documents of {collection} in west", expected.len());
    wait_until(&what, PATIENCE, same).with_context(|| match west.documents(collection) {
        Ok(found) => format!("there are {}", found.len()),
        Err(error) => format!("{error:#}"),
    })
}

fn japanese(east: &Api) -> Result<BTreeMap<String, Value>> {
    let mut all = east.documents("cars")?;
    all.retain(|_, car| car["Origin"] == "Japan");
    Ok(all)
}

/// West must want `cars` with `Origin = 'Japan'` from east, and east all of `orders` from west.
pub(crate) fn check(east: &Api, west: &Api) -> Result<()> {
    let cars = cars()?;
    let lines: String = cars.iter().map(|car| format!("{car}\n")).collect();
    let reply = east.load("cars", lines)?.success()?;
    ensure!(reply["written"] == cars.len(), "{reply}");
    let loaded = reply["transactionId"].as_u64().context("a transaction id")?;
    wait_until("all cars are in east", PATIENCE, || {
        Ok(east.documents("cars")?.len() == cars.len())
    })?;
    let wanted = japanese(east)?;
    ensure!(wanted.len() == JAPANESE, "{} are Japanese", wanted.len());
    wait_for(west, "cars", &wanted)?;

    // An update takes one out of the filter, another changes one inside, a third brings one in.
    let ids: Vec<_> = wanted.keys().cloned().collect();
    let id = |number: usize| serde_json::from_str::<Value>(&ids[number]).expect("an id is JSON");
    east.execute("UPDATE cars SET Origin = 'USA' WHERE _id = :id", &json!({"id": id(0)}))?;
    east.execute("UPDATE cars SET Note = :n WHERE _id = :id", &json!({"id": id(1), "n": "é"}))?;
    east.execute("UPDATE cars SET Origin = 'Japan' WHERE Name LIKE 'ford pinto%'", &json!({}))?;
    east.execute("DELETE FROM cars WHERE _id = :id", &json!({"id": id(2)}))?;
    east.execute("UPDATE cars APPLY seen INCREMENT BY 3 WHERE _id = :id", &json!({"id": id(3)}))?;
    let wanted = wait_for_change(east, JAPANESE)?;
    wait_for(west, "cars", &wanted)?;

    // The other direction, and a counter that both sides add to.
    let order = json!({"d": {"_id": 1, "car": id(3), "pieces": 5}});
    west.execute("INSERT INTO orders DOCUMENTS (:d)", &order)?;
    wait_until("the order is in east", PATIENCE, || Ok(east.documents("orders")?.len() == 1))?;
    let cars_in_west = west.documents("cars")?;
    west.execute("UPDATE orders APPLY pieces INCREMENT BY -2 WHERE _id = 1", &json!({}))?;
    let sum = || Ok(east.documents("orders")?["1"]["pieces"] == 3);
    wait_until("the sum is in east", PATIENCE, sum)?;
    ensure!(west.documents("cars")? == cars_in_west, "west's cars changed");

    read_your_writes(east, loaded)
}

fn wait_for_change(east: &Api, before: usize) -> Result<BTreeMap<String, Value>> {
    let mut wanted = BTreeMap::new();
    wait_until("the changes are in east", PATIENCE, || {
        wanted = japanese(east)?;
        let counted = wanted.values().filter(|car| car["seen"] == 3).count();
        Ok(counted == 1 && wanted.len() > before)
    })?;
    Ok(wanted)
}

/// A write is read back at its own transaction; transaction ids grow.
fn read_your_writes(east: &Api, earlier: u64) -> Result<()> {
    for number in 0..20 {
        let document = json!({"d": {"_id": "mine", "number": number}});
        let statement = "INSERT INTO mine DOCUMENTS (:d) ON ID CONFLICT DO UPDATE";
        let reply = east.execute(statement, &document)?;
        let txn = reply["transactionId"].as_u64().context("a transaction id")?;
        ensure!(txn > earlier, "{txn} is not after {earlier}");
        let found = east.get_at("mine", "mine", txn)?.context("it was just written")?;
        ensure!(found["number"] == number, "{found} at {txn}");
    }
    Ok(())
}

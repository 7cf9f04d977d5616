//! A query finds all that is there before there is an index for it, from when one is asked for on and once
//! that is built, while others write; then it looks at nothing else.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anabranch_tests::cluster::{Api, Dev, PATIENCE};
use anabranch_tests::support::wait_until;
use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::BINARY;

const DOCUMENTS: u64 = 100_000;
/// So many values they have, each of them as often.
const VALUES: u64 = 10_000;
const EACH: u64 = DOCUMENTS / VALUES;
/// The value that is asked for, and the one that documents have in turn with it.
const ASKED: u64 = 5;
const OTHER: u64 = 6;
const WRITERS: u64 = 2;
/// How often it is asked once the index is built.
const ASKS: usize = 50;

#[test]
fn a_query_by_an_index_looks_at_what_it_returns_while_others_write() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let Dev { process: _process, api } = Dev::start(Path::new(BINARY), dir.path(), "indexed", &[])?;
    let car = |id: u64| json!({"_id": id, "n": id % VALUES}).to_string() + "\n";
    let loaded = api.load("cars", (0..DOCUMENTS).map(car).collect())?.success()?;
    ensure!(loaded["written"] == DOCUMENTS, "{loaded}");
    let is_over = AtomicBool::new(false);
    let (asked, swaps) = thread::scope(|scope| {
        let swap = |writer| swap(&api, writer, &is_over);
        let writers: Vec<_> =
            (0..WRITERS).map(|writer| scope.spawn(move || swap(writer))).collect();
        let asked = ask_until_built(&api);
        is_over.store(true, Ordering::Relaxed);
        let swaps: Result<Vec<_>> =
            writers.into_iter().map(|it| it.join().expect("it does not panic")).collect();
        (asked, swaps)
    });
    asked?;
    let swaps = swaps?;
    ensure!(swaps.iter().all(|swaps| *swaps > 0), "{swaps:?} times something was written");
    ensure!(looked_at(&api)? == (true, EACH), "nobody writes any more");
    Ok(())
}

/// Swaps the values of two documents, time and again: so many have each at any time.
fn swap(api: &Api, writer: u64, is_over: &AtomicBool) -> Result<u64> {
    let set = |id: u64, n: u64| {
        json!({
            "statement": "UPDATE cars SET n = :n WHERE _id = :id",
            "args": {"n": n, "id": id + writer * VALUES},
        })
    };
    let mut swaps = 0;
    while !is_over.load(Ordering::Relaxed) {
        for (one, two) in [(OTHER, ASKED), (ASKED, OTHER)] {
            api.transact(&json!([set(ASKED, one), set(OTHER, two)]))?.success()?;
            swaps += 1;
        }
    }
    Ok(swaps)
}

/// Asks before there is an index, while it is built, and once it is.
fn ask_until_built(api: &Api) -> Result<()> {
    ensure!(looked_at(api)? == (false, DOCUMENTS), "there is an index before one was made");
    api.execute("CREATE INDEX by_n ON cars (n)", &json!({}))?;
    wait_until("the index is built", PATIENCE, || Ok(looked_at(api)?.0))?;
    for _ in 0..ASKS {
        let (by_index, examined) = looked_at(api)?;
        // One document of each writer may have come to the value since the snapshot.
        ensure!(by_index && examined <= EACH + WRITERS, "{examined} documents are looked at");
    }
    Ok(())
}

/// Whether the query is answered by an index, and how many documents are looked at for it; whichever way, it has
/// to be right.
fn looked_at(api: &Api) -> Result<(bool, u64)> {
    let (query, args) = ("SELECT * FROM cars WHERE n = :n", json!({"n": ASKED}));
    let cars = api.execute(query, &args)?["items"].take();
    let cars = cars.as_array().context("rows")?;
    let ids: BTreeSet<_> = cars.iter().filter_map(|car| car["_id"].as_u64()).collect();
    let are_right = cars.iter().all(|car| car["n"] == ASKED);
    let counts = [ids.len() as u64, cars.len() as u64];
    ensure!(are_right && counts == [EACH, EACH], "{cars:?}");
    let explained = api.execute(&format!("EXPLAIN ANALYZE {query}"), &args)?["items"][0].take();
    let part = &explained["partitions"][0];
    ensure!(part["matched"] == EACH && part["rows"] == EACH, "{explained}");
    let examined = explained["examined"].as_u64().context("a number")?;
    Ok((part["access"] == "index", examined))
}

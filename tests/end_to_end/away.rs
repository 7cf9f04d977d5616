//! A cluster of several store nodes whose Kafka is away.

use std::path::Path;

use anabranch_tests::cluster::{Cluster, Layout, PATIENCE, Service};
use anabranch_tests::support::{BrokerProcess, free_port, wait_until};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::BINARY;
use crate::commands::{DONE, FAILED, has, run};

/// A store node that starts meanwhile is who it was: it goes by the configuration that it keeps. What
/// is there is read, and `status` says what is not.
#[test]
fn a_store_node_starts_without_its_log_and_the_others_answer() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut broker = BrokerProcess::start(&dir.path().join("kafka"), free_port())?;
    let layout = Layout { partitions: Some((1, 2)), ..Layout::default() };
    let mut cluster =
        Cluster::new(Path::new(BINARY), dir.path(), "away", &broker.address(), &layout)?;
    cluster.start_all()?;
    check(&mut broker, &mut cluster).map_err(|error| cluster.explained(&error))
}

fn check(broker: &mut BrokerProcess, cluster: &mut Cluster) -> Result<()> {
    let api = cluster.api();
    let insert = "INSERT INTO cars DOCUMENTS (:d)";
    api.execute_surely(insert, &json!({"d": {"_id": "a", "n": 1}}), "first", None)?;
    let [restarted, other] = [0, 1].map(Service::StoreNode);
    wait_until("both store nodes are ready", PATIENCE, || {
        Ok(cluster.is_ready(restarted) && cluster.is_ready(other))
    })?;
    let admin = cluster.api_of(other).admin_url().to_owned();
    run(&["status", "--server", &admin], DONE)?;

    cluster.kill(restarted)?;
    broker.kill_hard()?;
    cluster.start(restarted)?;
    let told = || -> Result<Option<String>> {
        let status = cluster.status_of(other)?;
        let nodes = status["nodes"].as_array().context("nodes")?;
        let is_heard = |node: &&Value| node["silentSeconds"].as_f64().is_some_and(|s| s < 2.0);
        let heard = nodes.iter().filter(is_heard).count();
        ensure!(nodes.len() == 2, "{status}");
        Ok(nodes[0]["notReady"].as_str().filter(|_| heard == 2).map(str::to_owned))
    };
    wait_until("the one that was started says why it is not ready", PATIENCE, || {
        Ok(told()?.is_some_and(|why| why.contains("catching up") && why.contains("log")))
    })?;
    ensure!(!cluster.is_ready(restarted), "it does not know where the log ends");
    let read = api.get("cars", "a")?;
    ensure!(read == Some(json!({"_id": "a", "n": 1})), "{read:?} is read without the log");
    let (stdout, stderr) = run(&["status", "--server", &admin], FAILED)?;
    has(&stdout, "problem: ")?;
    has(&stdout, "not ready: store node ")?;
    has(&stderr, "problem")?;

    broker.restart()?;
    let second = json!({"d": {"_id": "b", "n": 2}});
    let written = api.execute_surely(insert, &second, "second", None)?;
    wait_until("both store nodes are ready again", PATIENCE, || {
        Ok(cluster.is_ready(restarted) && cluster.is_ready(other))
    })?;
    let txn = written["transactionId"].as_u64().context("a transaction")?;
    ensure!(api.get_at("cars", "b", txn)?.is_some(), "what was written since is there");
    run(&["status", "--server", &admin], DONE)?;
    cluster.verify()
}

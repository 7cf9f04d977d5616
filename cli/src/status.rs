//! `anabranch status`: how far each part of a cluster is behind its log; with `--verify` whether its
//! replicas hold the same.

use anabranch_core::cluster::NodeId;
use anabranch_runtime::clock::now_millis;
use anyhow::{Context, Result};
use reqwest::Method;

use crate::board::verify::{self, Checksum, Difference, Verification, VerifiedNode};
use crate::board::{self, ClusterStatus, LinkStatus, LossStatus, NodeStatus, PartStatus};
use crate::client::{Client, TrustFlags};
use crate::failure::{Exit, Failure};
use crate::output::{Table, print};

const COLUMNS: &str = "\
NEXT, DURABLE and READS FROM are transaction ids: offsets in topic `txns`, with gaps. What is below
NEXT is done, or may be read there; what is below DURABLE survives a crash of the store node; it reads
at READS FROM or later, so that is kept for it. BEHIND counts transactions. HEARD is when one of its
peers heard it last, SUSPICION (0 to 1) how likely it is gone by the one that thinks so most. DETACHED counts the ranges that a node has past a
gap, COPYING the rounds and documents that it has copied so far of what it lacks.";

/// Show how far each part of a cluster is behind its log.
#[derive(Debug, clap::Args)]
#[command(after_help = COLUMNS)]
pub(crate) struct Args {
    /// The admin address of a service. Links to other clusters are known only to the bridge that
    /// has them: name it as well to see them.
    #[arg(long, value_name = "URL", env = "ANABRANCH_ADMIN_SERVER", value_delimiter = ',')]
    #[arg(default_value = "http://127.0.0.1:8081")]
    server: Vec<String>,
    #[command(flatten)]
    trust: TrustFlags,
    /// Print what the servers say as JSON, one a line.
    #[arg(long)]
    json: bool,
    /// Compare what the replicas of each partition hold, at one timestamp; fails if it is not the
    /// same. Reads all documents of all store nodes.
    #[arg(long)]
    verify: bool,
    /// With --verify: ask only these store nodes. Of one alone its checksum is shown.
    #[arg(long, value_name = "NAME", value_delimiter = ',', requires = "verify")]
    node: Vec<NodeId>,
    /// With --verify: into how many intervals the keyspace is cut, a power of two up to 4096
    /// [default: 256].
    #[arg(long, value_name = "COUNT", requires = "verify")]
    intervals: Option<u32>,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let Args { server, trust, json, verify, node, intervals } = args;
    if verify {
        let names: Vec<_> = node.iter().map(NodeId::as_str).collect();
        let intervals = intervals.unwrap_or(0);
        let path = format!("{}?intervals={intervals}&nodes={}", verify::PATH, names.join(","));
        return verify_all(&server, &trust, &path, json).await;
    }
    let mut statuses = Vec::new();
    for server in &server {
        let client = Client::new(server, &trust)?;
        let status: ClusterStatus = client
            .json(client.request(Method::GET, board::PATH))
            .await
            .with_context(|| format!("ask {server} for its status"))?;
        statuses.push(status);
    }
    for (index, status) in statuses.iter().enumerate() {
        if json {
            print(serde_json::to_string(status)?)?;
        } else {
            if index > 0 {
                print("")?;
            }
            show(status)?;
        }
    }
    Ok(judge_problems(statuses.iter().map(|status| status.problems.len()).sum())?)
}

/// Whether all is well if there are so many problems.
fn judge_problems(count: usize) -> Result<(), Failure> {
    match count {
        0 => Ok(()),
        1 => Err(Failure::new(Exit::Failed, "there is a problem")),
        _ => Err(Failure::new(Exit::Failed, format!("there are {count} problems"))),
    }
}

fn show(status: &ClusterStatus) -> Result<()> {
    let ClusterStatus {
        cluster,
        actor,
        slices,
        log_end,
        stable,
        gc_timestamp,
        parts,
        nodes,
        links,
        not_ready,
        problems,
        losses,
    } = status;
    let known = |txn: &Option<u64>| txn.map_or("unknown".to_owned(), |txn| txn.to_string());
    print(format_args!(
        "cluster {cluster} ({actor}), {slices} slices, log end {}, stable up to {} (UST), kept for \
         reads from {} (GC timestamp)",
        known(log_end),
        known(stable),
        known(gc_timestamp),
    ))?;
    let mut table = Table::new(&["PART", "NEXT", "BEHIND (TXNS)", "BEHIND (S)", "NOTE"]);
    for PartStatus { part, next, lag_transactions, lag_seconds, error } in parts {
        table.row([
            part.clone(),
            or_dash(next.as_ref()),
            or_dash(lag_transactions.as_ref()),
            seconds(*lag_seconds),
            error.clone().unwrap_or_default(),
        ]);
    }
    print(table)?;
    if !nodes.is_empty() {
        print("")?;
        print(node_table(nodes))?;
    }
    if !links.is_empty() {
        print("")?;
        print(link_table(links))?;
    }
    for NodeStatus { node, not_ready, .. } in nodes {
        if let Some(why) = not_ready {
            print(format_args!("not ready: store node {node}: {why}"))?;
        }
    }
    for NodeStatus { node, address, unreached, .. } in nodes {
        if let Some(why) = unreached {
            print(format_args!("not reached: store node {node} at {address}: {why}"))?;
        }
    }
    for (part, why) in not_ready {
        print(format_args!("not ready: {part}: {why}"))?;
    }
    for loss in losses.iter().flatten() {
        print(lost(loss))?;
    }
    for problem in problems {
        print(format_args!("problem: {problem}"))?;
    }
    Ok(())
}

/// What was declared lost.
fn lost(loss: &LossStatus) -> String {
    let LossStatus { partition, from, to, declared_by, declared_ms } = loss;
    let what = if from < to {
        format!("transactions {from} to {}", to - 1)
    } else {
        format!("parts of transactions from {from} on")
    };
    let ago = now_millis().saturating_sub(*declared_ms) / 1_000;
    format!("lost: partition {partition}: {what}, as {declared_by} declared {ago} s ago")
}

/// Asks each server to compare the replicas of its cluster.
async fn verify_all(servers: &[String], trust: &TrustFlags, path: &str, json: bool) -> Result<()> {
    let (mut differ, mut away) = (0, 0);
    for (index, server) in servers.iter().enumerate() {
        let client = Client::new(server, trust)?;
        let request = client.unlimited(Method::GET, path);
        let found: Verification =
            client.json(request).await.with_context(|| format!("ask {server} to verify"))?;
        differ += found.differences.len();
        away += found.nodes.iter().filter(|node| node.holds.is_none()).count();
        if json {
            print(serde_json::to_string(&found)?)?;
            continue;
        }
        if index > 0 {
            print("")?;
        }
        show_verification(&found)?;
    }
    Ok(judge(differ, away)?)
}

/// Whether all is well if replicas differ in so many intervals, and so many have not answered.
fn judge(differ: usize, away: usize) -> Result<(), Failure> {
    if differ > 0 {
        let message = format!("replicas do not hold the same in {differ} intervals");
        return Err(Failure::new(Exit::Failed, message)
            .with_hint("one of them is wrong: stop it, empty its data directory, and start it"));
    }
    if away > 0 {
        let message = format!("{away} store nodes did not say what they hold");
        return Err(Failure::new(Exit::Unavailable, message));
    }
    Ok(())
}

fn show_verification(found: &Verification) -> Result<()> {
    let Verification { cluster, transaction, nodes, differences } = found;
    let Some(transaction) = transaction else {
        return print(format_args!("cluster {cluster}: nothing was written yet"));
    };
    print(format_args!("cluster {cluster}, at transaction {transaction}"))?;
    let mut table = Table::new(&["STORE NODE", "PARTITION", "DOCUMENTS", "CHECKSUM", "NOTE"]);
    for VerifiedNode { node, partition, holds, error } in nodes {
        let (documents, checksum) = match holds {
            Some(Checksum { documents, checksum }) => (documents.to_string(), checksum.clone()),
            None => ("-".to_owned(), "-".to_owned()),
        };
        let note = error.clone().unwrap_or_default();
        table.row([node.clone(), partition.to_string(), documents, checksum, note]);
    }
    print(table)?;
    for Difference { partition, first, last, nodes } in differences {
        print(format_args!("partition {partition}, positions {first} to {last} differ:"))?;
        for held in nodes {
            let Checksum { documents, checksum } = &held.holds;
            print(format_args!("  {}: {documents} documents, {checksum}", held.node))?;
        }
    }
    Ok(())
}

fn node_table(nodes: &[NodeStatus]) -> Table {
    let mut table = Table::new(&[
        "STORE NODE",
        "PARTITION",
        "ADDRESS",
        "NEXT",
        "DURABLE",
        "READS FROM",
        "BEHIND (TXNS)",
        "BEHIND (S)",
        "HEARD (S AGO)",
        "SUSPICION",
        "DETACHED",
        "COPYING",
    ]);
    for node in nodes {
        table.row([
            node.node.clone(),
            node.partition.to_string(),
            node.address.clone(),
            or_dash(node.next.as_ref()),
            or_dash(node.durable.as_ref()),
            or_dash(node.gc_timestamp.as_ref()),
            or_dash(node.lag_transactions.as_ref()),
            seconds(node.lag_seconds),
            seconds(node.silent_seconds),
            format!("{:.2}", node.suspicion),
            node.detached_ranges.to_string(),
            or_dash(node.copying.as_ref()),
        ]);
    }
    table
}

fn link_table(links: &[LinkStatus]) -> Table {
    let mut table = Table::new(&[
        "REPLICATION",
        "APP",
        "CONNECTED TO",
        "RECEIVED",
        "SENT",
        "BEHIND (TXNS)",
        "BEHIND (S)",
        "NOTE",
    ]);
    for LinkStatus { app, replication, status } in links {
        let text = |path: &str| match status.pointer(path) {
            None | Some(serde_json::Value::Null) => None,
            Some(serde_json::Value::String(text)) => Some(text.clone()),
            Some(value) => Some(value.to_string()),
        };
        let cell = |path: &str| text(path).unwrap_or("-".to_owned());
        table.row([
            replication.clone(),
            app.clone(),
            cell("/connected/cluster"),
            cell("/received/next"),
            cell("/sent/next"),
            cell("/lagTransactions"),
            seconds(status["lagSeconds"].as_f64()),
            text("/lastError").unwrap_or_default(),
        ]);
    }
    table
}

fn seconds(value: Option<f64>) -> String {
    value.map_or("-".to_owned(), |seconds| format!("{seconds:.3}"))
}

fn or_dash(value: Option<&u64>) -> String {
    value.map_or("-".to_owned(), u64::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_a_failure() {
        assert!(judge_problems(0).is_ok());
        for count in [1, 2] {
            assert_eq!(judge_problems(count).map_err(|failure| failure.exit), Err(Exit::Failed));
        }
    }

    #[test]
    fn a_loss_says_what_and_who() {
        let mut loss = LossStatus {
            partition: 2,
            from: 5,
            to: 9,
            declared_by: "b1".to_owned(),
            declared_ms: now_millis(),
        };
        let told = lost(&loss);
        let expected = "lost: partition 2: transactions 5 to 8, as b1 declared ";
        assert!(told.starts_with(expected), "{told}");
        loss.to = 5;
        assert!(lost(&loss).contains("parts of transactions from 5 on"));
    }

    #[test]
    fn only_replicas_that_all_answered_and_hold_the_same_are_well() {
        let exit = |differ, away| judge(differ, away).map_err(|failure| failure.exit);
        assert_eq!(exit(0, 0), Ok(()));
        assert_eq!(exit(0, 1), Err(Exit::Unavailable));
        assert_eq!(exit(2, 0), Err(Exit::Failed));
        assert_eq!(exit(2, 1), Err(Exit::Failed), "what is known to be wrong comes first");
    }
}

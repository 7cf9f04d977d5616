//! `anabranch status`: how far each part of a cluster is behind its log.

use anyhow::{Context, Result};
use reqwest::Method;

use crate::board::{self, ClusterStatus, LinkStatus, NodeStatus, PartStatus};
use crate::client::Client;
use crate::output::{Table, print};

/// Show how far each part of a cluster is behind its log.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The admin address of a service. Links to other clusters are known only to the bridge that
    /// has them: name it as well to see them.
    #[arg(long, value_name = "URL", env = "ANABRANCH_ADMIN_SERVER", value_delimiter = ',')]
    #[arg(default_value = "http://127.0.0.1:8081")]
    server: Vec<String>,
    /// Print what the servers say as JSON, one a line.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let Args { server, json } = args;
    let mut statuses = Vec::new();
    for server in &server {
        let client = Client::new(server)?;
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
    Ok(())
}

fn show(status: &ClusterStatus) -> Result<()> {
    let ClusterStatus { cluster, actor, slices, log_end, parts, nodes, links, not_ready } = status;
    let end = log_end.map_or("unknown".to_owned(), |end| end.to_string());
    print(format_args!("cluster {cluster} ({actor}), {slices} slices, log end {end}"))?;
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
    for (part, why) in not_ready {
        print(format_args!("not ready: {part}: {why}"))?;
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
        "BEHIND (TXNS)",
        "BEHIND (S)",
        "SUSPICION",
        "DETACHED",
    ]);
    for node in nodes {
        table.row([
            node.node.clone(),
            node.partition.to_string(),
            node.address.clone(),
            or_dash(node.next.as_ref()),
            or_dash(node.durable.as_ref()),
            or_dash(node.lag_transactions.as_ref()),
            seconds(node.lag_seconds),
            format!("{:.2}", node.suspicion),
            node.detached_ranges.to_string(),
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

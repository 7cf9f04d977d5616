//! `GET /api/v1/verify` of the admin endpoint: whether the replicas of each partition hold the same.
//! It reads all that they hold, and answers when it is done.

use std::sync::Arc;
use std::time::Duration;

use anabranch_runtime::grpc::{self, AnyOf};
use anabranch_schemas::store as proto;
use anabranch_schemas::store::store_node_client::StoreNodeClient;
use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tonic::{Code, Status};

use super::Board;

/// Where it is.
pub(crate) const PATH: &str = "/api/v1/verify";

/// How long a store node may take to come to the timestamp that is compared.
const REACH: Duration = Duration::from_secs(10);

/// What to compare.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Wanted {
    /// Into how many intervals the keyspace is cut; 0 for as many as the store node takes.
    pub(crate) intervals: u32,
    /// Names of store nodes with commas between; empty for all.
    pub(crate) nodes: String,
}

/// What was found.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Verification {
    pub(crate) cluster: String,
    /// The snapshot that was compared; none if nothing was written yet.
    pub(crate) transaction: Option<u64>,
    pub(crate) nodes: Vec<VerifiedNode>,
    pub(crate) differences: Vec<Difference>,
}

/// A store node that was asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct VerifiedNode {
    pub(crate) node: String,
    pub(crate) partition: u32,
    /// What it holds; none if it did not answer.
    pub(crate) holds: Option<Checksum>,
    /// Why it did not.
    pub(crate) error: Option<String>,
}

/// How many documents, deleted ones included, and the sum over them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Checksum {
    pub(crate) documents: u64,
    pub(crate) checksum: String,
}

/// An interval of the keyspace in which replicas do not hold the same.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Difference {
    pub(crate) partition: u32,
    /// The first and the last position, in hexadecimal digits.
    pub(crate) first: String,
    pub(crate) last: String,
    pub(crate) nodes: Vec<Held>,
}

/// What a replica holds there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Held {
    pub(crate) node: String,
    #[serde(flatten)]
    pub(crate) holds: Checksum,
}

type Refusal = (StatusCode, Json<Value>);

pub(super) async fn answer(
    State(board): State<Arc<Board>>,
    Query(wanted): Query<Wanted>,
) -> Result<Json<Verification>, Refusal> {
    let Some(store) = &board.store else {
        let none = Status::unavailable("this process knows no store node");
        return Err(refusal(&none));
    };
    let names = wanted.nodes.split(',').map(str::trim).filter(|name| !name.is_empty());
    let request = proto::VerifyRequest {
        intervals: wanted.intervals,
        nodes: names.map(str::to_owned).collect(),
        wait_ms: u32::try_from(REACH.as_millis()).expect("it is short"),
    };
    let reply = ask(store, &request).await.map_err(|status| refusal(&status))?;
    Ok(Json(verification(board.cluster.name.to_string(), reply)))
}

/// Asks a store node, or the next one if that is not reached.
async fn ask(store: &AnyOf, request: &proto::VerifyRequest) -> Result<proto::VerifyReply, Status> {
    let mut client = StoreNodeClient::new(store.clone());
    let mut left = store.count().max(1);
    loop {
        left -= 1;
        match client.verify(request.clone()).await {
            Ok(reply) => return Ok(reply.into_inner()),
            Err(status) if left > 0 && grpc::code_of(&status).is_none() => {}
            Err(status) => return Err(status),
        }
    }
}

fn refusal(status: &Status) -> Refusal {
    let http = match status.code() {
        Code::InvalidArgument => StatusCode::BAD_REQUEST,
        Code::Internal | Code::Unimplemented => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    let code = grpc::code_of(status).unwrap_or("store_unavailable");
    let message = format!("store node: {}", status.message());
    (http, Json(json!({ "error": { "code": code, "message": message } })))
}

fn verification(cluster: String, reply: proto::VerifyReply) -> Verification {
    let proto::VerifyReply { txn, nodes, differences } = reply;
    let node = |node: proto::VerifiedNode| VerifiedNode {
        node: node.name,
        partition: node.partition,
        holds: node.sum.as_ref().map(checksum),
        error: (!node.error.is_empty()).then_some(node.error),
    };
    let held =
        |of: proto::NodeSum| Held { node: of.name, holds: checksum(&of.sum.unwrap_or_default()) };
    let difference = |found: proto::Difference| Difference {
        partition: found.partition,
        first: format!("{:016x}", found.first),
        last: format!("{:016x}", found.last),
        nodes: found.sums.into_iter().map(held).collect(),
    };
    Verification {
        cluster,
        transaction: txn,
        nodes: nodes.into_iter().map(node).collect(),
        differences: differences.into_iter().map(difference).collect(),
    }
}

fn checksum(sum: &proto::IntervalSum) -> Checksum {
    let checksum = format!("{:016x}{:016x}", sum.high, sum.low);
    Checksum { documents: sum.documents, checksum }
}

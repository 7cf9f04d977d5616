//! Two clusters, east and west, that trust each other.

use std::collections::BTreeMap;

use anabranch_runtime::tls::TlsFiles;
use anabranch_schemas::resources::{OnLeave, ReplicationSpec, Subscriptions};

use super::{Certificates, TestBridge, TestCluster};

/// What a replication is called on both sides.
pub(crate) const NAME: &str = "cars";
const BOTH: [&str; 2] = ["east", "west"];

/// Wants documents of collection `c` for which `condition` holds, and dials `connections`.
pub(crate) fn wants(condition: Option<&str>, connections: &[String]) -> ReplicationSpec {
    let queries = condition.map(|condition| ("c".parse().unwrap(), vec![condition.to_owned()]));
    ReplicationSpec {
        connections: connections.to_vec(),
        subscriptions: Subscriptions {
            queries_by_collection: queries.into_iter().collect::<BTreeMap<_, _>>(),
        },
        on_leave: OnLeave::Purge,
    }
}

/// Where a bridge can be dialled.
pub(crate) fn at(bridge: &TestBridge) -> String {
    bridge.bridge.address.to_string()
}

/// The two.
pub(crate) struct Pair {
    pub(crate) east: TestCluster,
    pub(crate) west: TestCluster,
    pub(crate) certificates: Certificates,
}

impl Pair {
    pub(crate) async fn new() -> Self {
        Pair {
            east: TestCluster::start("east", 1).await,
            west: TestCluster::start("west", 2).await,
            certificates: Certificates::new(&BOTH),
        }
    }

    /// The files of one of them, which trusts both.
    pub(crate) fn tls(&self, name: &str) -> TlsFiles {
        self.certificates.tls(name, &BOTH)
    }

    /// Starts the bridges of east and west.
    pub(crate) async fn bridges(&self) -> (TestBridge, TestBridge) {
        let east = self.east.bridge(self.tls("east")).await.unwrap();
        let west = self.west.bridge(self.tls("west")).await.unwrap();
        (east, west)
    }

    /// Starts them; west receives from east what has `w = 1`.
    pub(crate) async fn linked(&self) -> (TestBridge, TestBridge) {
        let (east, west) = self.bridges().await;
        self.link(&east);
        (east, west)
    }

    /// Declares that west receives from the bridge of east what has `w = 1`.
    pub(crate) fn link(&self, east: &TestBridge) {
        self.east.declare(NAME, Some(wants(None, &[])));
        self.west.declare(NAME, Some(wants(Some("w = 1"), &[at(east)])));
    }
}

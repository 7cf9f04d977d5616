//! Settings of a bridge.

use std::net::{Ipv4Addr, SocketAddr};

use anabranch_runtime::tls::TlsFiles;
use serde::{Deserialize, Serialize};

/// Settings of a bridge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BridgeConfig {
    /// Where bridges of other clusters dial this one. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// This cluster's certificate and key, and the authorities of the clusters it trusts. A bridge
    /// does not start without.
    pub tls: Option<TlsFiles>,
    /// How far the clocks of two clusters may differ, in milliseconds. Beyond it they have no link,
    /// and a document that a third cluster stamped so far ahead is a dead letter.
    pub max_clock_drift_ms: u64,
}

impl Default for BridgeConfig {
    fn default() -> Self {
        BridgeConfig {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 4040)),
            tls: None,
            max_clock_drift_ms: 60_000,
        }
    }
}

//! Settings of a store node.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anabranch_core::cluster::NodeId;
use anabranch_runtime::tls::TlsFiles;
use serde::{Deserialize, Serialize};

/// Settings of a store node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreNodeConfig {
    /// Which node of its cluster it is, if the cluster declares them.
    pub node: Option<NodeId>,
    /// Directory of the node's data; it is made if it is missing.
    pub data_dir: PathBuf,
    /// Where it answers the other services of its cluster. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// With these it answers over TLS only, and only to who shows a certificate.
    pub tls: Option<TlsFiles>,
    /// How far back a read can name its timestamp, in milliseconds of the log's time.
    pub history_ms: u64,
    /// How long the feed keeps changes, in milliseconds of the log's time: how long change data
    /// capture may be away.
    pub feed_retention_ms: u64,
    /// How long the id of a round is remembered, in milliseconds of the log's time.
    pub round_retention_ms: u64,
    /// How long all replicas of a partition have to lack what the log no longer has before it is
    /// declared lost, in milliseconds: the time to bring back one that has it, or a disk.
    pub lost_after_ms: u64,
    /// How long a read may take from first to last document, in milliseconds.
    pub max_read_ms: u64,
    /// How many queries and scans may run at once; those of one app take half of that at most, rounded up.
    pub max_streams: usize,
    /// How many bytes of rounds wait in memory at most for their turn, roughly.
    pub max_buffered_bytes: usize,
    /// How many bytes each of the larger tables keeps in memory before it is written to a file.
    pub write_buffer_bytes: usize,
    /// How many bytes of files are cached.
    pub block_cache_bytes: usize,
    /// How many indexes the node makes by itself at most, of what queries often look for; 0 for none.
    pub automatic_indexes: usize,
    /// How often what was applied is made durable, in milliseconds. After a crash the journal
    /// gives the rest again.
    pub flush_interval_ms: u64,
}

impl Default for StoreNodeConfig {
    fn default() -> Self {
        StoreNodeConfig {
            node: None,
            data_dir: PathBuf::from("anabranch-data/store-node"),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 7070)),
            tls: None,
            history_ms: 5 * 60 * 1000,
            feed_retention_ms: 7 * 24 * 60 * 60 * 1000,
            round_retention_ms: 24 * 60 * 60 * 1000,
            lost_after_ms: 60_000,
            max_read_ms: 10 * 60 * 1000,
            max_streams: 64,
            max_buffered_bytes: 64 << 20,
            write_buffer_bytes: 64 << 20,
            block_cache_bytes: 128 << 20,
            automatic_indexes: 16,
            flush_interval_ms: 30_000,
        }
    }
}

//! Settings of an ingest server.

use std::time::Duration;

use anabranch_runtime::listen::Limits;
use serde::{Deserialize, Serialize};

use crate::access::Audit;
use crate::error::Error;
use crate::hosts;

/// How long replies may take to be sent after the last deadline of a request.
const LAST_REPLIES: Duration = Duration::from_secs(2);

/// Settings of an ingest server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IngestConfig {
    /// Names this server among the ingest servers of its cluster, the same after a restart: it
    /// takes over what a server of the same name left open, so no two may share a name.
    pub server_name: String,
    /// How long a request may take until its reply begins, in milliseconds, unless the header
    /// `X-Anabranch-Timeout-Ms` says otherwise. Of a bulk load, each round has this long.
    pub request_timeout_ms: u64,
    /// The most that the header may say, in milliseconds.
    pub max_request_timeout_ms: u64,
    /// How long a read waits at most for the transaction in `X-Anabranch-Txn-Id`, in milliseconds.
    pub read_wait_ms: u64,
    /// How long a client may take to send the head of a request, in milliseconds; also how long a
    /// connection may be idle.
    pub header_timeout_ms: u64,
    /// How long a body that is sent or received may pause, in milliseconds; of a bulk load, 4 KiB
    /// have to arrive in this time.
    pub body_idle_timeout_ms: u64,
    /// How many connections are open at once; more wait to be accepted.
    pub max_connections: usize,
    /// How many requests run at once; more are refused.
    pub max_requests: usize,
    /// How many bulk loads run at once; more are refused.
    pub max_loads: usize,
    /// How many clients follow live queries at once, each of which has a connection; more are refused.
    /// Those of one app are three quarters of them at most.
    pub max_subscriptions: usize,
    /// How many live queries are kept at once, each for all that follow it; those of one app are half
    /// of them at most.
    pub max_live_queries: usize,
    /// How much memory live queries may take together, in bytes; those of one app take half of it at
    /// most.
    pub max_live_bytes: usize,
    /// The largest body of a statement, in bytes.
    pub max_body_bytes: usize,
    /// How much memory the bodies of running statements may take together, in bytes, with their values once
    /// they are parsed, which of short ones is many times as much; more are refused.
    pub max_buffered_bytes: usize,
    /// The largest body of a bulk load, in bytes.
    pub max_load_bytes: u64,
    /// How many documents one INSERT, UPDATE, DELETE or EVICT may write.
    pub max_changed_documents: usize,
    /// How large the mutations of one statement may be together, in bytes.
    pub max_round_bytes: usize,
    /// The most documents that one round of a bulk load has.
    pub load_round_documents: usize,
    /// About how large one round of a bulk load is, in bytes.
    pub load_round_bytes: usize,
    /// How many rounds of one bulk load are on their way at once.
    pub load_rounds_in_flight: usize,
    /// How long a document that was deleted goes on hiding what it was, in milliseconds: until then
    /// a concurrent write of another cluster can bring it back whole. Of several servers the one
    /// with the shortest time decides.
    pub tombstone_time_to_live_ms: u64,
    /// The names of hosts, without ports, that the server answers to beside IP addresses and
    /// `localhost`; `"*"` is any. If there are none, a listener that is not on the loopback answers
    /// to any.
    pub allowed_hosts: Vec<String>,
    /// Whoever reaches the HTTP API may do everything, without a key. For tests, and where something
    /// else keeps others out.
    pub open_to_all: bool,
    /// Which requests for documents the log notes: `off`, `denied`, `writes` or `all`.
    pub audit: Audit,
}

impl Default for IngestConfig {
    fn default() -> Self {
        IngestConfig {
            server_name: "ingest-1".to_owned(),
            request_timeout_ms: 10_000,
            max_request_timeout_ms: 10 * 60 * 1000,
            read_wait_ms: 5_000,
            header_timeout_ms: 30_000,
            body_idle_timeout_ms: 30_000,
            max_connections: 4_096,
            max_requests: 1_024,
            max_loads: 16,
            max_subscriptions: 2_048,
            max_live_queries: 1_024,
            max_live_bytes: 256 << 20,
            max_body_bytes: 16 << 20,
            max_buffered_bytes: 256 << 20,
            max_load_bytes: 1 << 40,
            max_changed_documents: 50_000,
            max_round_bytes: 32 << 20,
            load_round_documents: 1_000,
            load_round_bytes: 1 << 20,
            load_rounds_in_flight: 8,
            tombstone_time_to_live_ms: 30 * 24 * 60 * 60 * 1000,
            allowed_hosts: Vec::new(),
            open_to_all: false,
            audit: Audit::default(),
        }
    }
}

impl IngestConfig {
    /// Refuses settings with which nothing would work.
    pub fn check(&self) -> Result<(), Error> {
        let IngestConfig {
            server_name,
            request_timeout_ms,
            max_request_timeout_ms,
            read_wait_ms: _,
            header_timeout_ms,
            body_idle_timeout_ms,
            max_connections,
            max_requests,
            max_loads,
            max_subscriptions,
            max_live_queries,
            max_live_bytes,
            max_body_bytes,
            max_buffered_bytes,
            max_load_bytes,
            max_changed_documents,
            max_round_bytes,
            load_round_documents,
            load_round_bytes,
            load_rounds_in_flight,
            tombstone_time_to_live_ms,
            allowed_hosts,
            open_to_all: _,
            audit: _,
        } = self;
        let positive = [
            ("request_timeout_ms", *request_timeout_ms > 0),
            ("header_timeout_ms", *header_timeout_ms > 0),
            ("body_idle_timeout_ms", *body_idle_timeout_ms > 0),
            ("max_connections", *max_connections > 0),
            ("max_requests", *max_requests > 0),
            ("max_loads", *max_loads > 0),
            ("max_subscriptions", *max_subscriptions > 0),
            ("max_live_queries", *max_live_queries > 1),
            ("max_live_bytes", *max_live_bytes > 0),
            ("max_body_bytes", *max_body_bytes > 0),
            ("max_load_bytes", *max_load_bytes > 0),
            ("max_changed_documents", *max_changed_documents > 0),
            ("max_round_bytes", *max_round_bytes > 0),
            ("load_round_documents", *load_round_documents > 0),
            ("load_round_bytes", *load_round_bytes > 0),
            ("load_rounds_in_flight", *load_rounds_in_flight > 0),
            ("tombstone_time_to_live_ms", *tombstone_time_to_live_ms > 0),
        ];
        let wrong = |setting, reason: &str| Error::Setting { setting, reason: reason.to_owned() };
        if let Some((setting, _)) = positive.into_iter().find(|(_, positive)| !positive) {
            return Err(wrong(setting, "must be above 0"));
        }
        if server_name.is_empty() {
            return Err(wrong("server_name", "must not be empty"));
        }
        if *load_round_documents > 1_000 {
            return Err(wrong("load_round_documents", "must be at most 1000"));
        }
        if let Err(reason) = hosts::check_setting(allowed_hosts) {
            return Err(wrong("allowed_hosts", reason));
        }
        if max_request_timeout_ms < request_timeout_ms {
            return Err(wrong("max_request_timeout_ms", "must be at least request_timeout_ms"));
        }
        if max_buffered_bytes < max_body_bytes {
            return Err(wrong("max_buffered_bytes", "must be at least max_body_bytes"));
        }
        if max_subscriptions >= max_connections {
            return Err(wrong("max_subscriptions", "must be below max_connections"));
        }
        Ok(())
    }

    /// What the HTTP API grants to those who connect.
    pub fn connection_limits(&self) -> Limits {
        Limits {
            connections: self.max_connections,
            head: self.header_timeout(),
            pause: self.body_idle_timeout(),
            last_replies: self.request_timeout() + LAST_REPLIES,
        }
    }

    pub(crate) fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms)
    }

    pub(crate) fn max_request_timeout(&self) -> Duration {
        Duration::from_millis(self.max_request_timeout_ms)
    }

    pub(crate) fn read_wait(&self) -> Duration {
        Duration::from_millis(self.read_wait_ms)
    }

    pub(crate) fn header_timeout(&self) -> Duration {
        Duration::from_millis(self.header_timeout_ms)
    }

    pub(crate) fn tombstone_time_to_live(&self) -> Duration {
        Duration::from_millis(self.tombstone_time_to_live_ms)
    }

    pub(crate) fn body_idle_timeout(&self) -> Duration {
        Duration::from_millis(self.body_idle_timeout_ms)
    }
}

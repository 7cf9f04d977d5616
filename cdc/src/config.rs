//! Settings of change data capture.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Settings of change data capture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CdcConfig {
    /// A transaction ends with the reply of the feed that reaches this many changes.
    pub max_batch_changes: usize,
    /// Or this many bytes of changes.
    pub max_batch_bytes: usize,
    /// How soon every slice is marked after a change of any, in milliseconds.
    pub mark_interval_ms: u64,
    /// How often every slice is marked when nothing changes, in milliseconds.
    pub idle_mark_interval_ms: u64,
}

impl Default for CdcConfig {
    fn default() -> Self {
        CdcConfig {
            max_batch_changes: 5_000,
            max_batch_bytes: 4 << 20,
            mark_interval_ms: 1_000,
            idle_mark_interval_ms: 5_000,
        }
    }
}

impl CdcConfig {
    pub(crate) fn mark_interval(&self) -> Duration {
        Duration::from_millis(self.mark_interval_ms.max(1))
    }

    pub(crate) fn idle_mark_interval(&self) -> Duration {
        Duration::from_millis(self.idle_mark_interval_ms.max(1))
    }
}

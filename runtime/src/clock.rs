//! Wall time.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since the Unix epoch, by the clock of this machine; 0 if it stands before that.
pub fn now_millis() -> u64 {
    #[cfg(feature = "simulation")]
    if let Some(now_ms) = crate::simulation::now_millis() {
        return now_ms.saturating_add_signed(crate::tasks::clock_ahead_ms());
    }
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).expect("milliseconds since 1970 fit 64 bits")
}

//! Following what is declared.

use std::sync::Arc;
use std::time::Duration;

use anabranch_runtime::retry::Backoff;
use anabranch_runtime::tasks::Shutdown;
use anabranch_schemas::topics::ClusterName;

use super::{MetadataError, MetadataStore};
use crate::log::Journal;

/// How often the shutdown is looked at.
const WAIT: Duration = Duration::from_millis(200);
/// How long to wait after a failure, at first and at most.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const MOST_DELAY: Duration = Duration::from_secs(5);

/// Gives what `read` reads of a cluster's metadata, as it is and each time an entry has changed whose
/// name begins with `prefix`, until the shutdown begins. Blocks.
pub(super) fn follow<T>(
    journal: &Arc<dyn Journal>,
    cluster: &ClusterName,
    shutdown: &Shutdown,
    prefix: &str,
    read: impl Fn(&MetadataStore) -> Result<T, MetadataError>,
    mut give: impl FnMut(T),
) {
    let mut backoff = Backoff::new(FIRST_DELAY, MOST_DELAY);
    let mut follow = |backoff: &mut Backoff| -> Result<(), MetadataError> {
        let store = MetadataStore::open(Arc::clone(journal), cluster)?;
        give(read(&store)?);
        *backoff = Backoff::new(FIRST_DELAY, MOST_DELAY);
        while !shutdown.has_begun() {
            if store.wait(WAIT)?.iter().any(|key| key.starts_with(prefix)) {
                give(read(&store)?);
            }
        }
        Ok(())
    };
    while !shutdown.has_begun() {
        let Err(error) = follow(&mut backoff) else { return };
        tracing::warn!(%error, "'{prefix}' cannot be read in the metadata; trying again");
        std::thread::sleep(backoff.next_delay());
    }
}

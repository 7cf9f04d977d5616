//! A journal some of whose commits have an unknown outcome: half of those happened.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anabranch_journal::doubles::{Fate, FaultyJournal, Step};
use anabranch_journal::{Error, Journal};

/// Of `log`; this share of the commits of writers whose id contains `whose` has an unknown outcome.
/// With it comes how many had.
pub(crate) fn fateful(
    log: Arc<dyn Journal>,
    whose: &'static str,
    percent: u32,
) -> (Arc<dyn Journal>, Arc<AtomicU64>) {
    let met: Arc<AtomicU64> = Arc::default();
    let counted = met.clone();
    let journal = FaultyJournal::new(log, move |step| match step {
        Step::Commit(id) if id.as_str().contains(whose) && rand::random_range(0..100) < percent => {
            counted.fetch_add(1, Ordering::Relaxed);
            let unknown = Error::Unknown("the answer was lost".to_owned());
            if rand::random_bool(0.5) { Fate::DoneBut(unknown) } else { Fate::Fails(unknown) }
        }
        _ => Fate::Done,
    });
    (Arc::new(journal), met)
}

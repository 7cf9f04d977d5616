//! What a partition has declared lost must not be at one of its replicas (ST-2).
//!
//! The replicas that declare it lost are those that the resource `Cluster` has then. One that was
//! removed from it, or whose old disk comes back, may have applied what the others passed over. It
//! must not answer, nor hand anything over, and it cannot forget single transactions: so it stops,
//! and says that it has to begin anew. It does not do so by itself, since what is lost may be
//! nowhere else.
//!
//! Each node looks before it tells anything of what it has applied, and again all the time: it may
//! have been removed and declared once more while it was running.

use std::sync::Arc;

use anabranch_core::ids::TxnId;
use anabranch_core::slicing::PartitionId;
use anabranch_journal::metadata::{Agreed, MetadataStore};
use anabranch_journal::{Journal, Offset, TopicPartition};
use anabranch_schemas::topics::ClusterName;

use crate::error::Error;
use crate::storage::{Progress, Storage};

/// Compares what a node has applied with what its partition has declared lost.
pub(crate) struct Losses {
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) cluster: ClusterName,
    pub(crate) partition: PartitionId,
    pub(crate) storage: Arc<Storage>,
    /// What is declared, and the end of topic `meta` when that was read. It is read again when the
    /// topic has grown, which is seldom: no reader is kept for it.
    pub(crate) declared: Option<(Offset, Vec<Agreed>)>,
}

impl Losses {
    /// Compares them as they are now. Blocks.
    ///
    /// # Errors
    /// [`Error::AppliedLost`] if something was applied that is declared lost; those of the log.
    pub(crate) fn compare(&mut self) -> Result<(), Error> {
        // Before it is asked what is declared: what this node follows itself is declared first.
        let progress = self.storage.progress()?;
        match self.declared()?.iter().find(|agreed| has_applied(&progress, agreed)) {
            None => Ok(()),
            Some(Agreed { range, .. }) => Err(Error::AppliedLost {
                from: range.from,
                next: progress.next,
                declared_by: range.declared_by.clone(),
                path: self.storage.path().display().to_string(),
            }),
        }
    }

    fn declared(&mut self) -> Result<&[Agreed], Error> {
        let end = self.journal.bounds(&TopicPartition::new(self.cluster.meta(), 0))?.end;
        let declared = match self.declared.take() {
            Some((read, declared)) if read == end => declared,
            _ => {
                let metadata = MetadataStore::open(Arc::clone(&self.journal), &self.cluster)?;
                metadata.lost(self.partition)?
            }
        };
        Ok(&self.declared.insert((end, declared)).1)
    }
}

/// Whether a node that has come so far may have applied something of what is declared lost: it has
/// come past where that begins, and neither it nor who handed over to it passed over that.
fn has_applied(progress: &Progress, agreed: &Agreed) -> bool {
    let Agreed { number, range } = agreed;
    let is_passed = progress.losses.iter().any(|loss| {
        let is_this = (loss.from, loss.to, loss.number) == (range.from, range.to, *number);
        // Those who began anew may have passed over more; one from the very first transaction on
        // stands for all that an older version of the store did not write down.
        let is_more = loss.from < range.from || loss.from == TxnId(0);
        is_this || (is_more && range.from < loss.to && range.to <= loss.to)
    });
    progress.next > range.from && !is_passed
}

#[cfg(test)]
mod tests {
    use anabranch_journal::metadata::LostRange;

    use super::*;
    use crate::storage::Loss;

    /// Of a node that is at `next` and passed over one range.
    fn has(
        next: u64,
        passed: Option<(u64, u64, u32)>,
        (from, to, number): (u64, u64, u32),
    ) -> bool {
        let losses =
            passed.map(|(from, to, number)| Loss { from: TxnId(from), to: TxnId(to), number });
        let losses = losses.into_iter().collect();
        let progress = Progress { next: TxnId(next), losses, ..Progress::start(1) };
        let range = LostRange::new(PartitionId(0), TxnId(from), TxnId(to), []);
        has_applied(&progress, &Agreed { number, range })
    }

    #[test]
    fn a_store_of_an_older_version_may_have_passed_over_what_was_lost_by_then() {
        let all = Some((0, 20, 0));
        assert!(!has(20, all, (0, 5, 3)) && !has(20, all, (5, 20, 3)));
        assert!(has(30, all, (22, 25, 0)), "what was lost since counts");
    }

    #[test]
    fn who_has_come_into_what_is_lost_and_did_not_pass_over_it_has_applied_it() {
        let lost = (7, 20, 1);
        assert!(!has(7, None, lost), "it has not come there yet");
        assert!(has(8, None, lost));
        assert!(has(30, None, lost));
        assert!(!has(30, Some(lost), lost));
        assert!(has(30, Some((7, 20, 0)), lost), "another part of a slice was lost then");
        assert!(has(30, Some((7, 9, 0)), lost), "the log lost more before anybody had gone on");
        assert!(has(30, Some((20, 30, 0)), lost), "that was lost later");
    }

    #[test]
    fn who_began_anew_and_passed_over_more_has_not_applied_it() {
        assert!(!has(30, Some((0, 20, 0)), (7, 20, 1)));
        assert!(!has(30, Some((0, 25, 0)), (7, 7, 0)), "also if parts only were lost");
        assert!(has(30, Some((0, 15, 0)), (7, 20, 1)));
        assert!(has(30, Some((0, 7, 0)), (7, 7, 0)));
    }
}

//! What neither the log nor any replica has: the replicas agree, in the metadata store, on what of
//! it is lost, each passes over exactly that, and the cluster goes on. What was lost stands in the
//! feed of changes, so whoever follows that is told.
//!
//! On disk between the steps: the agreement, which a restart finds and follows; then the new
//! position, in one batch with the record of the loss.

use std::collections::BTreeMap;
use std::sync::Arc;

use anabranch_core::cluster::Epoch;
use anabranch_core::ids::TxnId;
use anabranch_journal::metadata::{Agreed, LostRange, MetadataStore};
use anabranch_journal::{Error as JournalError, Journal, Offset, TopicPartition};
use anabranch_runtime::clock::now_millis;
use anabranch_runtime::planted;
use anabranch_schemas::topics::ClusterName;

use crate::coordinate::Coordinator;
use crate::error::Error;
use crate::log::Log;
use crate::storage::{Loss, Progress, SliceRead};

/// Where replicas agree on what is lost. Its calls block.
pub(crate) trait Agreement: Send {
    /// What is lost from a transaction on, to the replicas of the configuration of this epoch. `None`
    /// if there is another one by now. `followed` as [`MetadataStore::declare_lost`] has it.
    fn lost_from(
        &self,
        next: TxnId,
        followed: Option<u32>,
        epoch: Epoch,
    ) -> Result<Option<Agreed>, Error>;
}

/// The agreement in a cluster's metadata.
pub(crate) struct Declared {
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) cluster: ClusterName,
    pub(crate) log: Arc<Log>,
    pub(crate) coordinator: Coordinator,
}

impl Agreement for Declared {
    fn lost_from(
        &self,
        next: TxnId,
        followed: Option<u32>,
        epoch: Epoch,
    ) -> Result<Option<Agreed>, Error> {
        let store = MetadataStore::open(Arc::clone(&self.journal), &self.cluster)?;
        // Those of another configuration have to be asked first.
        let declared = store.configuration(&self.cluster)?.map(|declared| declared.epoch());
        if declared.is_some_and(|declared| declared != epoch) {
            return Ok(None);
        }
        let membership = self.coordinator.membership();
        let current = membership.configuration();
        let Some(this) = current.member(membership.node()) else { return Ok(None) };
        let start = self.journal.bounds(&TopicPartition::new(self.cluster.txns(), 0))?.start;
        let starts = self.log.read().iter().map(|slice| {
            let at = TopicPartition::new(self.cluster.rounds(), slice.0);
            Ok((*slice, self.journal.bounds(&at)?.start))
        });
        let starts = starts.collect::<Result<Vec<_>, JournalError>>()?;
        let mut range = LostRange::new(this.partition, next, TxnId(start.0), starts);
        range.declared_by = membership.node().to_string();
        range.declared_ms = now_millis();
        Ok(store.declare_lost(&range, followed, &self.cluster, declared)?)
    }
}

/// Where a node is that passes over what is lost.
pub(super) fn passed_over(before: &Progress, agreed: &Agreed, log: &Log) -> Progress {
    let Agreed { number, range } = agreed;
    let mut progress = before.clone();
    let to = if planted!(LosesMore) { range.to.next() } else { range.to };
    let to = to.max(before.next);
    progress.observe(log.owned(), to);
    // What stands in the feed for it is the last of those transactions. The snapshots in between
    // are none: they would lack what is lost.
    if to > before.next {
        let last = TxnId(to.0 - 1);
        progress.last = Some(last);
        progress.oldest_readable = last;
    }
    // If it was about parts of later transactions only, another one may follow from the same one on.
    progress.losses.retain(|loss| loss.from < before.next);
    progress.losses.push(Loss { from: before.next, to, number: *number });
    let below: &BTreeMap<u16, u64> = &range.parts_below;
    for (slice, read) in log.slices().all().zip(&mut progress.slices) {
        if let Some(start) = below.get(&slice.0) {
            *read = read_from(read, Offset(*start));
        }
    }
    progress
}

/// What was read of a slice of which what stands below `start` is lost.
fn read_from(read: &SliceRead, start: Offset) -> SliceRead {
    let waiting = read.waiting.iter().copied().filter(|offset| *offset >= start);
    SliceRead { end: read.end.max(start), waiting: waiting.collect() }
}

#[cfg(test)]
mod tests {
    use anabranch_core::ids::ActorId;
    use anabranch_core::keyspace::{Intervals, Slice, SliceCount};
    use anabranch_core::slicing::PartitionId;
    use uuid::Uuid;

    use super::*;

    fn log() -> Log {
        let slices = SliceCount::try_from(2).unwrap();
        Log::new(ActorId(Uuid::nil()), slices, Intervals::all())
    }

    fn before() -> Progress {
        let mut progress = Progress::start(2);
        progress.observe(log().owned(), TxnId(7));
        progress.last = Some(TxnId(5));
        let waiting = vec![Offset(3), Offset(8)];
        progress.slices[1] = SliceRead { end: Offset(9), waiting };
        progress
    }

    fn agreed(number: u32, start: u64, slices: [u64; 2]) -> Agreed {
        let slices = [(Slice(0), Offset(slices[0])), (Slice(1), Offset(slices[1]))];
        Agreed { number, range: LostRange::new(PartitionId(0), TxnId(7), TxnId(start), slices) }
    }

    fn loss(to: u64, number: u32) -> Loss {
        Loss { from: TxnId(7), to: TxnId(to), number }
    }

    #[test]
    fn it_goes_on_where_the_log_begins() {
        let progress = passed_over(&before(), &agreed(0, 20, [4, 5]), &log());
        assert_eq!((progress.next, progress.last), (TxnId(20), Some(TxnId(19))));
        assert_eq!(progress.oldest_readable, TxnId(19));
        assert!(progress.is_of(log().owned()), "what is lost counts as observed");
        let ends: Vec<_> = progress.slices.iter().map(|slice| slice.end).collect();
        assert_eq!(ends, [Offset(4), Offset(9)]);
        assert_eq!(progress.slices[1].waiting, [Offset(8)]);
        assert_eq!(progress.losses, [loss(20, 0)]);
    }

    #[test]
    fn parts_may_be_lost_whose_transactions_are_not() {
        let progress = passed_over(&before(), &agreed(0, 0, [0, 30]), &log());
        assert_eq!((progress.next, progress.last), (TxnId(7), Some(TxnId(5))));
        assert_eq!(progress.oldest_readable, TxnId(0));
        assert_eq!(progress.slices[1], SliceRead { end: Offset(30), waiting: vec![] });
        assert_eq!(progress.losses, [loss(7, 0)]);
        let again = passed_over(&progress, &agreed(1, 20, [0, 40]), &log());
        assert_eq!(again.losses, [loss(20, 1)], "that one counts");
    }
}

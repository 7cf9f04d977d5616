//! Writes batches, each in one transaction with the position it ends at.
//!
//! Between two steps: before the commit there is an open transaction, which the next writer's
//! fencing aborts; after it the position in topic `cursors` has moved with the changes.

use std::sync::Arc;

use anabranch_core::ids::TxnId;
use anabranch_journal::metadata::ClusterIdentity;
use anabranch_journal::{
    Error as JournalError, Journal, NewRecord, RotatingWriter, TopicPartition, TransactionalId,
    Writer, cursors,
};
use anabranch_runtime::planted;
use anabranch_schemas::encode;
use anabranch_schemas::records::{ChangesCursor, Lost, PartialChanges, Resolved};
use bytes::Bytes;

use crate::batch::{Batch, Position};
use crate::error::Error;

/// The key of the position in topic `cursors`.
pub const CURSOR_KEY: &str = ChangesCursor::KEY;

/// Where changes are written.
pub(crate) struct ChangesWriter {
    cluster: ClusterIdentity,
    writer: RotatingWriter,
}

impl ChangesWriter {
    /// Fences every older writer, then reads where it had come to.
    pub(crate) fn open(
        journal: &Arc<dyn Journal>,
        cluster: ClusterIdentity,
    ) -> Result<(Self, Position), Error> {
        let id = TransactionalId::from(cluster.name.changes());
        let mut writer = RotatingWriter::open(journal, &id)?;
        let cursor: Option<ChangesCursor> =
            cursors::read_fenced(journal.as_ref(), &mut writer, &cluster.name, CURSOR_KEY)?;
        // What stands before the fence is visible by now.
        let partial = cursors::read(journal.as_ref(), &cluster.name, PartialChanges::KEY)?;
        Ok((ChangesWriter { cluster, writer }, Position::new(cursor, partial)))
    }

    /// Writes a batch, with marks of all slices or of those it touched.
    pub(crate) fn write(&mut self, batch: &Batch, mark_all: bool) -> Result<(), Error> {
        let cluster = &self.cluster.name;
        let topic = cluster.changes();
        let cursor = ChangesCursor { next: batch.next() };
        let events = batch.changes().iter().map(|event| NewRecord {
            at: TopicPartition::new(topic.as_str(), event.slice.0),
            key: event.key.clone(),
            value: Some(event.value.clone()),
        });
        let marks = batch.marks(mark_all);
        let marks = marks.iter().map(|mark: &Resolved| NewRecord {
            at: TopicPartition::new(topic.as_str(), mark.slice.0),
            key: Bytes::new(),
            value: Some(encode(mark)),
        });
        if planted!(CapturesApart) {
            let apart =
                |writer: &mut dyn Writer| cursors::append(writer, cluster, CURSOR_KEY, &cursor);
            self.writer.transaction(apart)?;
        }
        let written = self.writer.transaction(|writer| {
            events.chain(marks).try_for_each(|record| writer.append(record))?;
            cursors::append(writer, cluster, CURSOR_KEY, &cursor)?;
            if let Some(partial) = batch.partial() {
                cursors::append(writer, cluster, PartialChanges::KEY, &partial)?;
            }
            Ok::<(), JournalError>(())
        });
        written.map_err(Error::from)
    }

    /// Writes, for all slices, that the changes of the transactions from `next` on and below
    /// `start` are lost.
    pub(crate) fn write_lost(&mut self, next: TxnId, start: TxnId) -> Result<(), Error> {
        let cluster = &self.cluster.name;
        let topic = cluster.changes();
        let last = TxnId(start.0.saturating_sub(1));
        let records = self.cluster.slices.all().flat_map(|slice| {
            let lost = encode(&Lost { slice, from: next, to: last });
            [lost, encode(&Resolved { slice, txn: last })].map(|value| NewRecord {
                at: TopicPartition::new(topic.as_str(), slice.0),
                key: Bytes::new(),
                value: Some(value),
            })
        });
        let written = self.writer.transaction(|writer| {
            records.into_iter().try_for_each(|record| writer.append(record))?;
            cursors::append(writer, cluster, CURSOR_KEY, &ChangesCursor { next: start })?;
            Ok::<(), JournalError>(())
        });
        written.map_err(Error::from)
    }
}

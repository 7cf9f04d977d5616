//! What a node hands over to another replica: where it stands, and what was written between two
//! transactions, page by page, from a snapshot that it holds meanwhile.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::ids::TxnId;
use anabranch_core::keyspace::{Intervals, Position};
use anabranch_runtime::planted;
use anabranch_schemas::store as proto;
use bytes::Bytes;

use super::wire;
use crate::error::Error;
use crate::log::Log;
use crate::read::{Kind, Page, Reads, Replies, blocking};
use crate::status::{Applied, Status};
use crate::storage::{Loss, Progress, Storage, Table};

/// How much one page holds.
const PAGE_BYTES: usize = 1 << 20;
const PAGE_ENTRIES: usize = 10_000;
/// How many entries are looked at for one page: whoever waits is to hear from the node within a
/// second, also where little was written.
const PAGE_LOOKED: usize = 100_000;
/// How long one stream may take. Whoever reads it goes on with another one; a client that has
/// stopped reading holds the snapshot no longer.
const MAX_STREAM: Duration = Duration::from_secs(60 * 60);

/// Hands over what this node holds.
#[derive(Clone)]
pub(crate) struct Source {
    pub(crate) log: Arc<Log>,
    pub(crate) storage: Arc<Storage>,
    pub(crate) status: Arc<Status>,
    pub(crate) reads: Reads,
}

impl Source {
    /// How far this node is.
    pub(crate) async fn position(
        &self,
        request: &proto::PositionRequest,
    ) -> Result<proto::PositionReply, Error> {
        self.check_part(&request.intervals)?;
        self.check_told()?;
        let storage = Arc::clone(&self.storage);
        let progress = blocking(move || storage.progress()).await?;
        let lacks_next = self.status.backfilling().is_some();
        Ok(proto::PositionReply { lacks_next, ..wire::position(&progress) })
    }

    /// What was written between two transactions, as of the later one.
    pub(crate) async fn entries(
        &self,
        request: proto::EntriesRequest,
    ) -> Result<Replies<proto::EntriesReply>, Error> {
        let part = self.check_part(&request.intervals)?;
        let table = wire::read_table(request.table)?;
        let txns = TxnId(request.since)..TxnId(request.until);
        let last = txns.end.0.checked_sub(1).map(TxnId).filter(|_| !txns.is_empty());
        let last = last.ok_or_else(|| {
            Error::InvalidRequest("a range of transactions is not empty".to_owned())
        })?;
        let next = self.check_told()?;
        if next < txns.end {
            return Err(Error::NotReached { wanted: last, next });
        }
        let snapshot = self.reads.held(last)?;
        let storage = Arc::clone(&self.storage);
        let progress = blocking(move || storage.progress()).await?;
        check_snapshot(&progress, &txns, &wire::read_losses(&request.losses))?;
        // Mostly all that is here is wanted: then no position has to be computed.
        let part = (*self.log.owned() != part).then_some(part);
        let after = request.after;
        let (page_entries, page_looked) = (PAGE_ENTRIES, PAGE_LOOKED);
        let cursor =
            snapshot.txn.map(|_| Cursor { part, table, txns, after, page_entries, page_looked });
        self.reads.open(
            Kind::Entries,
            MAX_STREAM,
            snapshot,
            cursor,
            Cursor::next,
            |_, mut pages| pages.pop().unwrap_or_default(),
        )
    }

    /// How far this node is, if it may tell already.
    fn check_told(&self) -> Result<TxnId, Error> {
        let Applied { next, may_be_told, .. } = self.status.applied();
        if may_be_told { Ok(next) } else { Err(Error::CatchingUp { next }) }
    }

    /// Whether this node holds all of a part of the keyspace.
    fn check_part(&self, part: &[proto::Interval]) -> Result<Intervals, Error> {
        let part = wire::read_intervals(part)?;
        if self.log.owned().covers(&part) { Ok(part) } else { Err(Error::NotHere) }
    }
}

/// Whether this node has the snapshot that is copied. If it passed over as lost what the node had
/// applied whose snapshot that is, it has other documents at the same transaction, and must not give
/// the rest (ST-2).
fn check_snapshot(
    progress: &Progress,
    txns: &Range<TxnId>,
    expected: &[Loss],
) -> Result<(), Error> {
    match progress.losses_in(txns) == expected {
        true => Ok(()),
        false => Err(Error::OtherSnapshot { until: txns.end }),
    }
}

/// A table that was given up to some key.
pub(crate) struct Cursor {
    /// The part of the keyspace that is wanted, if that is not all that is here.
    pub(crate) part: Option<Intervals>,
    pub(crate) table: Table,
    pub(crate) txns: Range<TxnId>,
    /// Empty before the first.
    pub(crate) after: Bytes,
    /// How many entries a page has at most.
    pub(crate) page_entries: usize,
    /// How many are looked at for it.
    pub(crate) page_looked: usize,
}

impl Cursor {
    /// The next page: one reply.
    pub(crate) fn next(&mut self, storage: &Storage) -> Result<Page<proto::EntriesReply>, Error> {
        let mut reply = proto::EntriesReply::default();
        let (mut bytes, mut looked) = (0, 0);
        let mut last = None;
        let from = std::mem::take(&mut self.after);
        let until = if planted!(BackfillsMoving) { TxnId(u64::MAX) } else { self.txns.end };
        storage.entries(self.table, until, &from, |key, entry| {
            looked += 1;
            if let Some((txn, value)) = entry.filter(|(txn, _)| self.wants(key, *txn)) {
                bytes += key.len() + value.len();
                let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
                reply.entries.push(proto::Entry { key, txn: txn.0, value });
            }
            let entries = reply.entries.len();
            let is_full = bytes >= PAGE_BYTES || entries >= self.page_entries;
            if is_full || looked >= self.page_looked {
                last = Some(Bytes::copy_from_slice(key));
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })?;
        let is_last = last.is_none();
        let given = || reply.entries.last().map(|entry| entry.key.clone());
        reply.after = last.or_else(given).unwrap_or(from);
        reply.is_last = is_last;
        self.after = reply.after.clone();
        Ok(Page { items: vec![reply], is_last })
    }

    fn wants(&self, key: &[u8], txn: TxnId) -> bool {
        let is_there = || self.part.as_ref().is_none_or(|part| part.contains(Position::of(key)));
        txn >= self.txns.start && (self.table == Table::Rounds || is_there())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_passed_over_something_else_has_another_snapshot() {
        let loss = |from, to, number| Loss { from: TxnId(from), to: TxnId(to), number };
        let losses = vec![loss(3, 5, 0), loss(20, 30, 1), loss(60, 70, 0)];
        let progress = Progress { next: TxnId(80), losses, ..Progress::start(1) };
        let check = |since, until, expected: &[Loss]| {
            check_snapshot(&progress, &(TxnId(since)..TxnId(until)), expected)
        };
        assert!(check(10, 50, &[loss(20, 30, 1)]).is_ok());
        assert!(check(30, 50, &[]).is_ok(), "what whoever asks has anyway does not matter");
        let lacks_it = check(10, 50, &[]).unwrap_err();
        assert_eq!(lacks_it.code(), "other_snapshot");
        assert!(check(10, 50, &[loss(20, 30, 0)]).is_err(), "other parts were lost");
        assert!(check(30, 50, &[loss(40, 45, 0)]).is_err(), "it was applied here");
    }
}

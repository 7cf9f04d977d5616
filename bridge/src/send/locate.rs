//! Finds where in `c.changes` a transaction begins.
//!
//! Offsets of `c.changes` say nothing about transactions, but within a slice they order alike. Most
//! receivers were away for a short time: the search starts near the end of each slice and goes
//! back in growing steps until it meets a record of an earlier transaction; what lies between is
//! read and passed over. If the search comes to a log start that has moved, what is gone was of
//! earlier transactions only if the changes of none from there on had been written yet.

use std::time::Duration;

use tokio::time::Instant;

use anabranch_core::ids::TxnId;
use anabranch_core::keyspace::SliceCount;
use anabranch_journal::{
    Error as JournalError, Journal, Offset, ReadFrom, TopicPartition, cursors,
};
use anabranch_schemas::records::{ChangesCursor, ChangesRecord};
use anabranch_schemas::topics::ClusterName;

use crate::error::Error;

/// How far from the end the search starts, in records.
const FIRST_STEP: u64 = 64;
/// By how much the steps grow.
const GROWTH: u64 = 8;
/// How long to wait for a record, in one piece and in all.
const POLL: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(30);

/// One slice in which the place is still sought.
struct Search {
    at: TopicPartition,
    start: Offset,
    end: Offset,
    try_at: Offset,
    step: u64,
}

/// Where to start reading each slice of the topic of changes so as to meet everything of
/// transaction `from` and later ones; `None` if some of that is gone.
pub(crate) fn find_start(
    journal: &dyn Journal,
    cluster: &ClusterName,
    slices: SliceCount,
    from: TxnId,
    may_go_on: &dyn Fn() -> bool,
) -> Result<Option<Vec<(TopicPartition, ReadFrom)>>, Error> {
    let mut found = Vec::new();
    let mut searches = Vec::new();
    for slice in slices.all() {
        let at = TopicPartition::new(cluster.changes(), slice.0);
        let bounds = journal.bounds(&at)?;
        if from == TxnId(0) && bounds.start == Offset(0) {
            found.push((at, ReadFrom::Start));
            continue;
        }
        let mut search = Search {
            at,
            start: bounds.start,
            end: bounds.end,
            try_at: bounds.end,
            step: FIRST_STEP,
        };
        search.go_back();
        searches.push(search);
    }
    let deadline = Instant::now() + PATIENCE;
    while !searches.is_empty() {
        if !may_go_on() {
            return Err(Error::Shutdown);
        }
        let firsts = match first_transactions(journal, &searches, deadline) {
            // The start of the log moved while we looked.
            Err(Error::Journal(JournalError::Trimmed { .. })) => return Ok(None),
            other => other?,
        };
        let mut remaining = Vec::new();
        for (mut search, first) in searches.into_iter().zip(firsts) {
            let at_start = search.try_at <= search.start;
            if first.is_some_and(|first| first < from) {
                found.push((search.at, ReadFrom::Offset(search.try_at)));
            } else if !at_start {
                search.go_back();
                remaining.push(search);
            } else if search.start == Offset(0) {
                found.push((search.at, ReadFrom::Start));
            } else if first.is_none() && captured_up_to(journal, cluster)? <= from {
                found.push((search.at, ReadFrom::Offset(search.end)));
            } else {
                return Ok(None);
            }
        }
        searches = remaining;
    }
    Ok(Some(found))
}

/// Every transaction below this is in the topic of changes, and no other.
fn captured_up_to(journal: &dyn Journal, cluster: &ClusterName) -> Result<TxnId, Error> {
    let cursor: Option<ChangesCursor> = cursors::read(journal, cluster, ChangesCursor::KEY)?;
    Ok(cursor.map_or(TxnId(0), |cursor| cursor.next))
}

impl Search {
    fn go_back(&mut self) {
        let back = Offset(self.end.0.saturating_sub(self.step));
        self.try_at = back.max(self.start);
        self.step = self.step.saturating_mul(GROWTH);
    }
}

/// The transaction of the first record at or after each search's offset; `None` where there is no
/// record up to the end.
fn first_transactions(
    journal: &dyn Journal,
    searches: &[Search],
    deadline: Instant,
) -> Result<Vec<Option<TxnId>>, Error> {
    let from: Vec<_> = searches
        .iter()
        .map(|search| (search.at.clone(), ReadFrom::Offset(search.try_at)))
        .collect();
    let mut reader = journal.reader(&from)?;
    let mut firsts = vec![None; searches.len()];
    loop {
        for record in reader.poll(POLL)? {
            let index = searches.iter().position(|search| search.at == record.at);
            let Some(first) = index.and_then(|index| firsts.get_mut(index)) else { continue };
            if let (None, Some(value)) = (*first, &record.value) {
                *first = Some(transaction(value, &record.at, record.offset)?);
            }
        }
        let done = searches.iter().zip(&firsts).all(|(search, first)| {
            first.is_some() || reader.position(&search.at).is_some_and(|at| at >= search.end)
        });
        if done {
            return Ok(firsts);
        }
        if Instant::now() > deadline {
            let late = "no record of the changes topic could be read in time".to_owned();
            return Err(JournalError::Unavailable(late).into());
        }
    }
}

fn transaction(value: &[u8], at: &TopicPartition, offset: Offset) -> Result<TxnId, Error> {
    let record = ChangesRecord::decode(value)
        .map_err(|source| Error::Record { what: format!("{at} at {offset}"), source })?;
    Ok(match record {
        ChangesRecord::Change(change) => change.txn,
        ChangesRecord::Resolved(resolved) => resolved.txn,
        ChangesRecord::Lost(lost) => lost.to,
    })
}

//! What replicas tell each other for a backfill, as messages.

use anabranch_core::hlc::Hlc;
use anabranch_core::ids::TxnId;
use anabranch_core::keyspace::{Interval, Intervals, Position, SliceCount};
use anabranch_journal::Offset;
use anabranch_schemas::store as proto;

use crate::error::Error;
use crate::storage::{Entry, Loss, Progress, SliceRead, Table};

/// A part of the keyspace.
pub(super) fn intervals(part: &Intervals) -> Vec<proto::Interval> {
    let interval = |part: &Interval| proto::Interval { first: part.first().0, last: part.last().0 };
    part.iter().map(interval).collect()
}

/// Reads a part of the keyspace.
pub(super) fn read_intervals(part: &[proto::Interval]) -> Result<Intervals, Error> {
    let interval =
        |part: &proto::Interval| Interval::between(Position(part.first), Position(part.last));
    let is_ordered = part.windows(2).all(|pair| pair[0].last < pair[1].first);
    if part.is_empty() || !is_ordered || !part.iter().all(|part| interval(part).is_some()) {
        let what = "a part of the keyspace is at least one interval, in order";
        return Err(Error::InvalidRequest(what.to_owned()));
    }
    Ok(part.iter().filter_map(interval).collect())
}

/// How far a replica is.
pub(super) fn position(progress: &Progress) -> proto::PositionReply {
    // What it observed where is what it owns, and what it keeps is its own business.
    let Progress { next, last, time, slices, losses, .. } = progress;
    let Progress { observed: _, oldest_readable: _, feed_start: _, .. } = progress;
    let slice = |read: &SliceRead| proto::SlicePosition {
        end: read.end.0,
        waiting: read.waiting.iter().map(|offset| offset.0).collect(),
    };
    proto::PositionReply {
        next: next.0,
        last: last.map(|last| last.0),
        time: time.0,
        slices: slices.iter().map(slice).collect(),
        // Not for the progress to say.
        lacks_next: false,
        losses: self::losses(losses),
    }
}

/// Reads how far a replica is. Nothing was observed yet by whoever reads it.
pub(super) fn read_position(
    reply: &proto::PositionReply,
    slices: SliceCount,
) -> Result<Progress, &'static str> {
    let read = |slice: &proto::SlicePosition| SliceRead {
        end: Offset(slice.end),
        waiting: slice.waiting.iter().copied().map(Offset).collect(),
    };
    let makes_sense = |read: &SliceRead| {
        let is_ordered = read.waiting.windows(2).all(|pair| pair[0] < pair[1]);
        is_ordered && read.waiting.last().is_none_or(|last| *last < read.end)
    };
    let progress = Progress {
        next: TxnId(reply.next),
        last: reply.last.map(TxnId),
        time: Hlc(reply.time),
        slices: reply.slices.iter().map(read).collect(),
        losses: read_losses(&reply.losses),
        ..Progress::start(0)
    };
    if progress.slices.len() != usize::from(slices.get()) {
        return Err("it has another number of slices");
    }
    let passed = |loss: &Loss| loss.from <= loss.to && loss.to <= progress.next;
    if progress.last.is_some_and(|last| last >= progress.next)
        || !progress.slices.iter().all(makes_sense)
        || !progress.losses.iter().all(passed)
        || !progress.losses.is_sorted_by(|one, next| one.from < next.from)
    {
        return Err("its position makes no sense");
    }
    Ok(progress)
}

/// What was passed over.
pub(super) fn losses(losses: &[Loss]) -> Vec<proto::Loss> {
    let loss = |loss: &Loss| {
        let Loss { from, to, number } = *loss;
        proto::Loss { from: from.0, to: to.0, number }
    };
    losses.iter().map(loss).collect()
}

/// Reads what was passed over.
pub(super) fn read_losses(losses: &[proto::Loss]) -> Vec<Loss> {
    let loss = |loss: &proto::Loss| Loss {
        from: TxnId(loss.from),
        to: TxnId(loss.to),
        number: loss.number,
    };
    losses.iter().map(loss).collect()
}

pub(super) fn table(table: Table) -> proto::Table {
    match table {
        Table::Rounds => proto::Table::Rounds,
        Table::Versions => proto::Table::Versions,
    }
}

pub(super) fn read_table(table: i32) -> Result<Table, Error> {
    match proto::Table::try_from(table) {
        Ok(proto::Table::Rounds) => Ok(Table::Rounds),
        Ok(proto::Table::Versions) => Ok(Table::Versions),
        Ok(proto::Table::Unspecified) | Err(_) => {
            Err(Error::InvalidRequest("there is no such table".to_owned()))
        }
    }
}

pub(super) fn read_entry(entry: proto::Entry) -> Entry {
    let proto::Entry { key, txn, value } = entry;
    Entry { key, txn: TxnId(txn), value }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slices() -> SliceCount {
        SliceCount::try_from(2).unwrap()
    }

    fn loss(from: u64, to: u64) -> Loss {
        Loss { from: TxnId(from), to: TxnId(to), number: 1 }
    }

    fn progress() -> Progress {
        let mut progress = Progress::start(2);
        progress.next = TxnId(9);
        progress.last = Some(TxnId(7));
        progress.time = Hlc(5);
        progress.slices[1] = SliceRead { end: Offset(9), waiting: vec![Offset(3), Offset(8)] };
        progress.losses = vec![loss(2, 4), loss(4, 9)];
        progress
    }

    #[test]
    fn a_position_reads_back() {
        let reply = position(&progress());
        assert_eq!(read_position(&reply, slices()), Ok(progress()));
        assert!(read_position(&reply, SliceCount::default()).is_err());
    }

    #[test]
    fn a_position_that_makes_no_sense_is_refused() {
        let refused = |change: &dyn Fn(&mut Progress)| {
            let mut progress = progress();
            change(&mut progress);
            read_position(&position(&progress), slices()).is_err()
        };
        assert!(!refused(&|_| {}));
        assert!(refused(&|progress| progress.last = Some(TxnId(9))));
        assert!(refused(&|progress| progress.slices[1].end = Offset(8)));
        assert!(refused(&|progress| progress.slices[1].waiting.reverse()));
        assert!(refused(&|progress| progress.losses.reverse()));
        assert!(refused(&|progress| progress.losses[1] = loss(4, 10)));
    }

    #[test]
    fn a_part_of_the_keyspace_reads_back_and_is_never_empty() {
        let part = |first, last| proto::Interval { first, last };
        let two = [part(3, 4), part(6, u64::MAX)];
        assert_eq!(intervals(&read_intervals(&two).unwrap()), two);
        for wrong in [&[][..], &[part(4, 3)], &[part(3, 4), part(4, 5)]] {
            assert!(read_intervals(wrong).is_err(), "{wrong:?}");
        }
    }
}

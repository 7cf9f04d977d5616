//! What is not believed of what others tell.
//!
//! One announce that makes no sense would do harm for long: of a base far past the end of the log
//! all would wait for what is never written. So it is dropped, and a node that hears again and again
//! that it has said what it has not knows that another one has its name. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use anabranch_core::ids::TxnId;

use super::announce::{Ahead, Announce, Standing};
use super::suspicion::Moment;

/// The end of the log is known a little late. No log grows by so much meanwhile.
const MOST_TXNS_AHEAD: u64 = 1 << 22;

/// So many times within so long a node has not made what is told of it: by then it is no clock that
/// went back before a start. Two that live hear of each other many times a second, so it is over once
/// nothing is heard for a while.
const OUTBIDS: usize = 5;
const WITHIN: Duration = Duration::from_secs(60);
const OVER_AFTER: Duration = Duration::from_secs(5);

/// Whether an announce is far past the end of the log, if that was seen a moment ago.
pub(super) fn is_doubtful(announce: &Announce, log_end: Option<TxnId>) -> bool {
    let most = log_end.map_or(u64::MAX, |end| end.0.saturating_add(MOST_TXNS_AHEAD));
    farthest(&announce.standing).0 > most
}

/// The newest transaction that an announce speaks of.
fn farthest(standing: &Standing) -> TxnId {
    let Standing { applied, durable, gc_timestamp, history_from, .. } = standing;
    let ahead = applied.ahead().iter().flat_map(|Ahead { base, detached, .. }| {
        detached.last().map(|range| range.end).into_iter().chain([*base])
    });
    ahead.fold(applied.base(), TxnId::max).max(*durable).max(*gc_timestamp).max(*history_from)
}

/// How often a node has heard of announces of its own that it did not make.
#[derive(Clone, Debug, Default)]
pub(super) struct Outbids(VecDeque<Moment>);

impl Outbids {
    /// Once more.
    pub(super) fn note(&mut self, now: Moment) {
        self.0.push_back(now);
        if self.0.len() > OUTBIDS {
            self.0.pop_front();
        }
    }

    /// Whether that is a rule and no accident.
    pub(super) fn are_many(&self, now: Moment) -> bool {
        let is_going_on = self.0.back().is_some_and(|last| now.since(*last) <= OVER_AFTER);
        is_going_on
            && self.0.len() == OUTBIDS
            && self.0.iter().all(|then| now.since(*then) <= WITHIN)
    }
}

/// Lets something be said now and then.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seldom(Option<Moment>);

impl Seldom {
    /// Whether it may be said now.
    pub(super) fn may(&mut self, now: Moment) -> bool {
        let may = self.0.is_none_or(|last| now.since(last) >= WITHIN);
        if may {
            self.0 = Some(now);
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use anabranch_core::keyspace::Position;

    use super::super::announce::Applied;
    use super::super::doubles::announce;
    use super::*;

    #[test]
    fn what_is_far_past_the_log_is_not_believed_where_the_log_is_known() {
        let far = 1_000 + MOST_TXNS_AHEAD;
        let is_doubtful = |announce: &Announce| super::is_doubtful(announce, Some(TxnId(1_000)));
        let of = |base| is_doubtful(&announce("a", 1, base));
        assert_eq!([of(1_000), of(far), of(far + 1)], [false, false, true]);
        assert!(!super::is_doubtful(&announce("a", 1, u64::MAX), None));
        let mut ahead = announce("a", 1, 10);
        let piece = |base, detached: Option<u64>| {
            let detached = detached.map(|end| TxnId(end - 1)..TxnId(end)).into_iter().collect();
            Ahead { first: Position(0), last: Position(9), base: TxnId(base), detached }
        };
        for piece in [piece(far + 1, None), piece(20, Some(far + 1))] {
            ahead.standing.applied = Applied::from_parts(TxnId(10), vec![piece], false).unwrap();
            assert!(is_doubtful(&ahead));
        }
        let changes: [fn(&mut Standing, TxnId); 3] = [
            |standing, txn| standing.durable = txn,
            |standing, txn| standing.gc_timestamp = txn,
            |standing, txn| standing.history_from = txn,
        ];
        for change in changes {
            let mut other = announce("a", 1, 10);
            change(&mut other.standing, TxnId(far + 1));
            assert!(is_doubtful(&other));
        }
    }

    #[test]
    fn outbids_are_many_when_they_do_not_end() {
        let at = |seconds: u64| Moment(Duration::from_secs(seconds));
        let mut outbids = Outbids::default();
        for second in [0, 30, 60, 90, 120, 121, 122] {
            outbids.note(at(second));
            assert!(!outbids.are_many(at(second)), "{second}");
        }
        outbids.note(at(123));
        assert!(outbids.are_many(at(123)));
        assert!(outbids.are_many(at(128)));
        assert!(!outbids.are_many(at(129)), "it has ended");
        let mut seldom = Seldom::default();
        assert_eq!(
            [5, 6, 64, 65, 66].map(|second| seldom.may(at(second))),
            [true, false, false, true, false]
        );
    }
}

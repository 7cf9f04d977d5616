//! What is not believed of what others tell.
//!
//! One announce that makes no sense would do harm for long: of a base far past the end of the log
//! all would wait for what is never written, and nobody could say anything newer than an
//! incarnation from a far future. So these are dropped, and a node that hears again and again that
//! it has said what it has not knows that another one has its name. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use anabranch_core::ids::TxnId;

use super::announce::{Ahead, Announce, Incarnation, Standing};
use super::suspicion::Moment;

/// The end of the log is known a little late. No log grows by so much meanwhile.
const MOST_TXNS_AHEAD: u64 = 1 << 22;
/// How far clocks are apart at most.
const MOST_CLOCK_AHEAD_MS: u64 = 60 * 60 * 1000;

/// So many times within so long a node has not made what is told of it: by then it is no clock that
/// went back before a start.
const OUTBIDS: usize = 5;
const WITHIN: Duration = Duration::from_secs(60);

/// What a node knows for itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    /// The end of the log, if that was seen a moment ago.
    pub(super) log_end: Option<TxnId>,
    pub(super) now_ms: u64,
    /// When the node that is told of was started, as far as was believed.
    pub(super) incarnation: Option<Incarnation>,
}

/// Why an announce is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Doubt {
    Log,
    Clock,
}

impl Doubt {
    /// Its name in metrics.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Doubt::Log => "log",
            Doubt::Clock => "clock",
        }
    }

    /// For people.
    pub(super) fn text(self) -> &'static str {
        match self {
            Doubt::Log => "it has applied far more than there is in the log",
            Doubt::Clock => "it was started in the future: compare the clocks",
        }
    }
}

/// Why an announce is not to be believed, if it is not.
pub(super) fn doubt(announce: &Announce, known: Known) -> Option<Doubt> {
    let Announce { version, standing, .. } = announce;
    // A clock that was wrong may have been put right since.
    let latest_ms = known.incarnation.map_or(0, |known| known.0).max(known.now_ms);
    if version.incarnation.0 > latest_ms.saturating_add(MOST_CLOCK_AHEAD_MS) {
        return Some(Doubt::Clock);
    }
    let most = known.log_end?.0.saturating_add(MOST_TXNS_AHEAD);
    (farthest(standing).0 > most).then_some(Doubt::Log)
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
        self.0.len() == OUTBIDS && self.0.iter().all(|then| now.since(*then) <= WITHIN)
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

    const NOW_MS: u64 = 1_800_000_000_000;

    fn known(log_end: Option<u64>) -> Known {
        Known { log_end: log_end.map(TxnId), now_ms: NOW_MS, incarnation: None }
    }

    #[test]
    fn what_is_far_past_the_log_is_not_believed_where_the_log_is_known() {
        let far = 1_000 + MOST_TXNS_AHEAD;
        let of = |base| doubt(&announce("a", 1, base), known(Some(1_000)));
        assert_eq!([of(1_000), of(far), of(far + 1)], [None, None, Some(Doubt::Log)]);
        assert_eq!(doubt(&announce("a", 1, u64::MAX), known(None)), None);
        let mut ahead = announce("a", 1, 10);
        let piece = |base, detached: Option<u64>| {
            let detached = detached.map(|end| TxnId(end - 1)..TxnId(end)).into_iter().collect();
            Ahead { first: Position(0), last: Position(9), base: TxnId(base), detached }
        };
        for piece in [piece(far + 1, None), piece(20, Some(far + 1))] {
            ahead.standing.applied = Applied::from_parts(TxnId(10), vec![piece], false).unwrap();
            assert_eq!(doubt(&ahead, known(Some(1_000))), Some(Doubt::Log));
        }
        let changes: [fn(&mut Standing, TxnId); 3] = [
            |standing, txn| standing.durable = txn,
            |standing, txn| standing.gc_timestamp = txn,
            |standing, txn| standing.history_from = txn,
        ];
        for change in changes {
            let mut other = announce("a", 1, 10);
            change(&mut other.standing, TxnId(far + 1));
            assert_eq!(doubt(&other, known(Some(1_000))), Some(Doubt::Log));
        }
    }

    #[test]
    fn who_was_started_in_the_future_is_not_believed() {
        let beside = |believed: Option<u64>, incarnation| {
            let mut other = announce("a", 1, 10);
            other.version.incarnation = Incarnation(incarnation);
            doubt(&other, Known { incarnation: believed.map(Incarnation), ..known(None) })
        };
        let of = |incarnation| beside(None, incarnation);
        let most = NOW_MS + MOST_CLOCK_AHEAD_MS;
        assert_eq!([of(NOW_MS), of(most)], [None; 2]);
        assert_eq!([of(most + 1), of(u64::MAX)], [Some(Doubt::Clock); 2]);
        assert_eq!(beside(Some(most), most + 1), None, "the clock here may have been put right");
        assert_eq!(beside(Some(most), u64::MAX), Some(Doubt::Clock));
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
        assert!(outbids.are_many(at(150)));
        assert!(!outbids.are_many(at(151)), "it has ended");
        let mut seldom = Seldom::default();
        assert_eq!(
            [5, 6, 64, 65, 66].map(|second| seldom.may(at(second))),
            [true, false, false, true, false]
        );
    }
}

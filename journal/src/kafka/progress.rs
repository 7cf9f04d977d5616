//! Notices partitions whose reading stands still.
//!
//! After the death of brokers librdkafka can stop fetching a partition for good, without a word.
//! [`super::reader`] therefore looks now and then where those partitions end whose positions have
//! not moved since it looked last. One that ends further on, twice in a row, stands still.
//!
//! What is no alarm: a partition where nothing is written, or where a transaction is open, ends
//! where the position is, since its end is the last stable offset and positions move up to it
//! past markers and aborted records. What was written a moment ago has come by the second look. An
//! end that nobody tells proves nothing.

use std::time::{Duration, Instant};

use crate::log::Offset;

/// Between two looks: long compared with what fetching takes, a reconnect or a slow link included.
pub(super) const INTERVAL: Duration = Duration::from_secs(30);
/// Who is busy looks when it has missed so many looks.
const MISSED: u32 = 2;

/// What a reader knows of its partitions from the last look.
pub(super) struct Progress {
    interval: Duration,
    due: Instant,
    seen: Vec<Seen>,
}

#[derive(Clone, Copy)]
struct Seen {
    position: Offset,
    /// It had not moved, and ended further on.
    behind: bool,
}

impl Progress {
    pub(super) fn new(positions: impl IntoIterator<Item = Offset>, interval: Duration) -> Self {
        let seen = positions.into_iter().map(|position| Seen { position, behind: false });
        Progress { interval, due: Instant::now() + interval, seen: seen.collect() }
    }

    /// When to look next.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// Whether nobody has looked for long: there is always something to read.
    pub(super) fn is_overdue(&self) -> bool {
        Instant::now() >= self.due + MISSED * self.interval
    }

    /// Looks; gives the partitions that stand still. `ask` says
    /// where each of some partitions ends, `None` for what is not known.
    pub(super) fn look(
        &mut self,
        positions: &[Offset],
        ask: impl FnOnce(&[usize]) -> Vec<Option<Offset>>,
    ) -> Vec<usize> {
        self.due = Instant::now() + self.interval;
        let mut still = Vec::new();
        for (index, (seen, position)) in self.seen.iter_mut().zip(positions).enumerate() {
            if seen.position == *position {
                still.push(index);
            } else {
                *seen = Seen { position: *position, behind: false };
            }
        }
        if still.is_empty() {
            return still;
        }
        let mut ends = ask(&still).into_iter();
        still.retain(|index| {
            let seen = &mut self.seen[*index];
            let behind = ends.next().flatten().is_some_and(|end| end > seen.position);
            let before = std::mem::replace(&mut seen.behind, behind);
            before && behind
        });
        still
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [usize; 0] = [];

    /// Looks at positions and ends; only those that did not move may be asked for.
    fn look(progress: &mut Progress, positions: [u64; 2], ends: [Option<u64>; 2]) -> Vec<usize> {
        progress.look(&positions.map(Offset), |still| {
            still.iter().map(|index| ends[*index].map(Offset)).collect()
        })
    }

    #[test]
    fn what_stays_behind_twice_in_a_row_stands_still() {
        let mut progress = Progress::new([3, 5].map(Offset), INTERVAL);
        assert_eq!(look(&mut progress, [3, 5], [Some(3), Some(5)]), NONE, "nothing is written");
        assert_eq!(look(&mut progress, [3, 5], [Some(4), Some(5)]), NONE, "it may be on its way");
        assert_eq!(look(&mut progress, [4, 5], [Some(9), Some(6)]), NONE, "it came");
        assert_eq!(
            look(&mut progress, [4, 5], [Some(9), None]),
            NONE,
            "who does not know is no proof"
        );
        assert_eq!(look(&mut progress, [4, 5], [Some(9), Some(6)]), [0]);
        assert_eq!(look(&mut progress, [4, 5], [Some(9), Some(6)]), [0, 1]);
        assert_eq!(look(&mut progress, [9, 6], [Some(9), Some(6)]), NONE);
    }

    #[test]
    fn a_question_without_an_answer_ends_what_was_suspected() {
        let mut progress = Progress::new([0, 0].map(Offset), INTERVAL);
        assert_eq!(look(&mut progress, [0, 0], [Some(1), Some(1)]), NONE);
        assert_eq!(progress.look(&[0, 0].map(Offset), |_| Vec::new()), NONE);
        assert_eq!(look(&mut progress, [0, 0], [Some(1), Some(1)]), NONE);
        assert_eq!(look(&mut progress, [0, 0], [Some(1), Some(1)]), [0, 1]);
    }

    #[test]
    fn who_moves_is_not_asked_for() {
        let mut progress = Progress::new([0, 0].map(Offset), INTERVAL);
        let stuck = progress.look(&[1, 1].map(Offset), |_| panic!("both have moved"));
        assert_eq!(stuck, NONE);
    }
}

//! From which replica to take what the log no longer has. Pure.

use anabranch_core::cluster::NodeId;
use anabranch_core::ids::TxnId;
use anabranch_runtime::planted;
use tonic::Status;

use super::replicas::{Heard, Position};
use crate::storage::Progress;

/// What was found among the other replicas.
#[derive(Debug)]
pub(super) enum Choice {
    /// This one has come farther than the node, and farthest of those that answered.
    From(NodeId, Progress),
    /// All have answered, and none has more than the node, nor will have.
    Nobody,
    /// None has more yet, and of these it is not known that they will not.
    Unknown(Vec<(NodeId, Status)>),
}

/// Chooses for a node that has everything below `next`.
pub(super) fn choose(next: TxnId, heard: Vec<Heard>) -> Choice {
    let (mut best, mut silent) = (None::<(NodeId, Progress)>, Vec::new());
    for (node, position) in heard {
        match position {
            Ok(Position { progress, lacks_next }) => {
                let most = best.as_ref().map_or(next, |(_, best)| best.next);
                if progress.next > most {
                    best = Some((node, progress));
                } else if !lacks_next {
                    let why = "it has not yet applied all that it has of the log";
                    silent.push((node, Status::unavailable(why)));
                }
            }
            Err(status) => silent.push((node, status)),
        }
    }
    match best {
        Some((node, progress)) => Choice::From(node, progress),
        None if silent.is_empty() || planted!(LosesUnasked) => Choice::Nobody,
        None => Choice::Unknown(silent),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of replicas that are that far, `None` for one that does not answer.
    fn chosen(next: u64, replicas: &[Option<u64>]) -> Choice {
        let heard = |(number, next): (usize, &Option<u64>)| {
            let at = |next: u64| {
                let progress = Progress { next: TxnId(next), ..Progress::start(1) };
                Position { progress, lacks_next: next > 0 }
            };
            let position = next.map(at).ok_or_else(|| Status::unavailable("away"));
            (format!("n{number}").parse().unwrap(), position)
        };
        choose(TxnId(next), replicas.iter().enumerate().map(heard).collect())
    }

    #[test]
    fn the_one_that_has_come_farthest_gives_whoever_else_is_silent() {
        let Choice::From(node, progress) = chosen(5, &[Some(6), None, Some(9), Some(7)]) else {
            panic!("one of them has more");
        };
        assert_eq!((node.as_str(), progress.next), ("n2", TxnId(9)));
    }

    #[test]
    fn nothing_is_lost_while_somebody_may_have_it() {
        assert!(matches!(chosen(5, &[Some(5), Some(4)]), Choice::Nobody));
        let unread = chosen(5, &[Some(5), Some(0)]);
        assert!(matches!(unread, Choice::Unknown(_)), "one may have it in memory: {unread:?}");
        assert!(matches!(chosen(5, &[]), Choice::Nobody));
        let Choice::Unknown(silent) = chosen(5, &[Some(5), None]) else {
            panic!("one has not answered");
        };
        assert_eq!(silent[0].0.as_str(), "n1");
    }
}

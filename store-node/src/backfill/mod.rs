//! Backfill: a node that lacks what the log no longer has, or has nothing at all, takes it from
//! another replica of its partition.
//!
//! It asks where the others are ([`replicas`]), chooses the one that has come farthest
//! ([`choice`]), notes that one's position as the one to come to, and fetches what was written up
//! to there since its own: what became of rounds, then the newest version of each document. The
//! snapshot does not move, so whichever replica gives a part of it gives the same (ST-2), and what
//! was fetched needs not be fetched again. Then its position is the one it noted, and the log is
//! applied from there. If the log has lost something again meanwhile, the next backfill is only
//! about that.
//!
//! | on disk when it crashes | on restart |
//! |---|---|
//! | nothing yet | it begins |
//! | an unfinished backfill, and some of its entries | it goes on behind the last entry, at the same snapshot; at a newer one, from the first entry, if nobody has that snapshot any more |
//! | all entries | the same: nothing comes, and it finishes |
//! | a part of one that is being abandoned | it is fetched again from the first entry, or abandoned |
//! | versions taken back, and that they may still be under their deletion on disk | they are removed from there before anything else |
//! | what an expiry has written of which the log has lost the record | the same, before others are asked |
//! | the new position | it applies the log |
//! | an agreement on what is lost ([`lost`]) | the others are asked again; if nobody has it, the agreement is followed |
//!
//! While it lasts the node serves no reads: there are newer documents among the older ones. What it
//! may hand over itself is its old position, of which nothing is missing.

mod choice;
mod lost;
mod replicas;
mod source;
mod target;
mod told;
mod wire;

#[cfg(test)]
pub(crate) use self::lost::Agreement;
pub(crate) use self::lost::Declared;
pub(crate) use self::replicas::Remote;
#[cfg(test)]
pub(crate) use self::replicas::{Fetched, Fill, Heard, Position, Replicas, Wanted, read_entries};
#[cfg(test)]
pub(crate) use self::source::Cursor;
pub(crate) use self::source::Source;
pub(crate) use self::target::{ASK_AGAIN, Backfill, REMOVED_AT_ONCE, Reason};

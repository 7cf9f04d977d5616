//! What every journal promises, as tests: one function per property, each panicking with a sentence
//! that says what does not hold. [`conformance_tests!`](crate::conformance_tests) makes one
//! `#[test]` of each, for the implementation that a [`Harness`] opens:
//!
//! ```text
//! anabranch_journal::conformance_tests!(EmbeddedHarness);
//! ```
//!
//! The properties know nothing of any implementation: they wait for conditions up to [`PATIENCE`],
//! never for a time, and they never hold two handles of one log at once.

mod crash;
mod fencing;
mod latency;
mod reading;
mod support;
mod topics;
mod transactions;

use std::sync::Arc;
use std::time::Duration;

use crate::log::Journal;

pub use crash::{CrashLog, Event, WriteLoop, kill_at_random_points};
pub use fencing::*;
pub use latency::*;
pub use reading::*;
pub use topics::*;
pub use transactions::*;

/// How long the suite waits for something that has to happen.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Opens the journal under test.
pub trait Harness: Sized {
    /// A log for one test. It may be one that other tests use too: topics and transactional ids
    /// have unique names.
    fn create() -> Self;

    /// The log that a harness in another process, now dead or about to write no more, describes as
    /// `address`. Dropping what this gives leaves the log in place.
    fn attach(address: &str) -> Self;

    /// What [`Harness::attach`] needs in another process.
    fn address(&self) -> String;

    /// Opens the log. The suite drops all of a handle, its writers and its readers before it opens
    /// the next one or lets another process do so.
    fn open(&self) -> Arc<dyn Journal>;
}

/// Makes a `#[test]` of each property, for the [`Harness`] named.
#[macro_export]
macro_rules! conformance_tests {
    ($harness:ty) => {
        $crate::conformance_tests!(without_crashes: $harness);

        #[test]
        fn kill_9_at_random_points_loses_nothing() {
            let path = concat!(module_path!(), "::kill_9_at_random_points_loses_nothing");
            $crate::conformance::kill_at_random_points::<$harness>(path);
        }
    };
    (without_crashes: $harness:ty) => {
        $crate::conformance_tests!(@each $harness:
            a_transaction_is_visible_in_all_partitions_or_none,
            an_aborted_transaction_is_invisible,
            nothing_is_visible_before_the_commit,
            a_dropped_writer_aborts,
            an_empty_transaction_commits_and_aborts,
            a_transaction_needs_a_begin,
            flush_gives_the_offsets_readers_see,
            concurrent_writers_share_a_partition,
            a_position_commits_with_the_output,
            a_record_too_large_is_refused_and_the_writer_goes_on,
            an_unknown_topic_is_refused_and_the_writer_goes_on,
            records_are_returned_as_written,
            order_is_kept_within_a_partition,
            an_open_transaction_hides_what_follows,
            holes_are_passed,
            a_position_reaches_the_end_past_an_aborted_tail,
            reading_starts_where_asked,
            trimming_is_reported,
            a_compacted_topic_keeps_the_newest_of_each_key,
            a_new_writer_aborts_what_the_older_left_open,
            a_zombie_cannot_append,
            a_zombie_cannot_commit,
            an_idle_zombie_cannot_write,
            a_new_writer_sees_all_of_the_older_one,
            topics_are_made_once,
            another_number_of_partitions_is_refused,
            another_cleanup_is_refused,
            a_smaller_record_limit_is_refused,
            commits_do_not_stall,
        );
    };
    (@each $harness:ty: $($property:ident,)*) => {
        $(
            #[test]
            fn $property() {
                $crate::conformance::$property(&<$harness as $crate::conformance::Harness>::create());
            }
        )*
    };
}

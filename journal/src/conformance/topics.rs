//! Topics: made when missing, refused when they have settings with which data would be lost.

use super::Harness;
use super::support::{RECORD_LIMIT, must, unique};
use crate::error::Error;
use crate::log::{Cleanup, Journal, TopicPartition, TopicSpec};

const KEEP: Cleanup = Cleanup::Delete { retention_ms: None };

fn spec() -> TopicSpec {
    TopicSpec {
        name: unique("topic").into(),
        partitions: 4,
        cleanup: KEEP,
        max_record_bytes: RECORD_LIMIT,
    }
}

fn assert_refused(journal: &dyn Journal, spec: TopicSpec, wanted: &str) {
    let topic = spec.name.as_str().to_owned();
    match journal.ensure_topics(&[spec]) {
        Err(Error::WrongSetting { topic: told, setting, hint, .. }) => {
            assert_eq!((told.as_str(), setting.as_str()), (topic.as_str(), wanted));
            assert!(!hint.is_empty(), "there is no hint");
        }
        other => panic!("a topic with another {wanted} gave {other:?} and not WrongSetting"),
    }
}

/// Topics that exist as wanted are left alone, and all partitions can be used at once.
pub fn topics_are_made_once(harness: &impl Harness) {
    let journal = harness.open();
    let (first, second) = (spec(), spec());
    must(journal.ensure_topics(std::slice::from_ref(&first)), "make a topic");
    must(journal.ensure_topics(&[first.clone(), second.clone()]), "make another one");
    must(journal.ensure_topics(&[second, first.clone()]), "make nothing");
    for partition in 0..first.partitions {
        let at = TopicPartition::new(first.name.clone(), partition);
        let bounds = must(journal.bounds(&at), "bounds of a new partition");
        assert_eq!(bounds.start, bounds.end, "a new partition is not empty");
    }
}

/// A document's slice would move, so its older records would not be found.
pub fn another_number_of_partitions_is_refused(harness: &impl Harness) {
    let journal = harness.open();
    let spec = spec();
    must(journal.ensure_topics(std::slice::from_ref(&spec)), "make a topic");
    for partitions in [3, 5] {
        let other = TopicSpec { partitions, ..spec.clone() };
        assert_refused(journal.as_ref(), other, "partitions");
    }
}

/// Compaction would drop records that are needed; deletion by age would drop metadata.
pub fn another_cleanup_is_refused(harness: &impl Harness) {
    let journal = harness.open();
    let kept = TopicSpec { cleanup: Cleanup::Delete { retention_ms: Some(86_400_000) }, ..spec() };
    let compacted = TopicSpec { cleanup: Cleanup::Compact, ..spec() };
    must(journal.ensure_topics(&[kept.clone(), compacted.clone()]), "make topics");
    let wrong = TopicSpec { cleanup: Cleanup::Compact, ..kept.clone() };
    assert_refused(journal.as_ref(), wrong, "cleanup.policy");
    let wrong = TopicSpec { cleanup: KEEP, ..compacted };
    assert_refused(journal.as_ref(), wrong, "cleanup.policy");
    let longer = TopicSpec { cleanup: KEEP, ..kept.clone() };
    assert_refused(journal.as_ref(), longer, "retention.ms");
    let shorter = TopicSpec { cleanup: Cleanup::Delete { retention_ms: Some(1_000) }, ..kept };
    must(journal.ensure_topics(&[shorter]), "a topic that keeps its records longer than asked");
}

/// Records that fitted when they were planned would be refused when they are written.
pub fn a_smaller_record_limit_is_refused(harness: &impl Harness) {
    let journal = harness.open();
    let spec = spec();
    must(journal.ensure_topics(std::slice::from_ref(&spec)), "make a topic");
    let larger = TopicSpec { max_record_bytes: 100 * RECORD_LIMIT, ..spec };
    assert_refused(journal.as_ref(), larger, "max.message.bytes");
}

//! The topics of a cluster as they have to be.

use anabranch_core::keyspace::SliceCount;
use anabranch_schemas::topics::ClusterName;

use crate::error::Error;
use crate::log::{Cleanup, TopicSpec};

/// The largest record of topics that carry documents: above the largest document, whose state in
/// a change event or in a merge is larger than its JSON.
pub(crate) const MAX_ROUND_RECORD_BYTES: usize = 32 << 20;
/// The largest record of the others.
const MAX_SMALL_RECORD_BYTES: usize = 4 << 20;

/// What [`Journal::ensure_topics`](crate::Journal::ensure_topics) is to make for a cluster.
/// Rounds, commit records, changes and dead letters are kept for `retention_ms`; `None` keeps them
/// for ever.
pub fn cluster_topics(
    cluster: &ClusterName,
    slices: SliceCount,
    retention_ms: Option<u64>,
) -> Vec<TopicSpec> {
    let topic = |name: String, partitions, cleanup, max_record_bytes| TopicSpec {
        name: name.into(),
        partitions,
        cleanup,
        max_record_bytes,
    };
    let kept = Cleanup::Delete { retention_ms };
    vec![
        topic(cluster.rounds(), slices.get(), kept, MAX_ROUND_RECORD_BYTES),
        topic(cluster.txns(), 1, kept, MAX_SMALL_RECORD_BYTES),
        topic(cluster.changes(), slices.get(), kept, MAX_ROUND_RECORD_BYTES),
        topic(cluster.dead_letters(), 1, kept, MAX_ROUND_RECORD_BYTES),
        topic(cluster.meta(), 1, Cleanup::Compact, MAX_SMALL_RECORD_BYTES),
        topic(cluster.cursors(), 1, Cleanup::Compact, MAX_SMALL_RECORD_BYTES),
    ]
}

/// Refuses a topic with settings that are not those that it was made with.
pub(crate) fn check_settings(
    wanted: &TopicSpec,
    found: &TopicSpec,
    hint: &str,
) -> Result<(), Error> {
    let policy = |spec: &TopicSpec| match spec.cleanup {
        Cleanup::Compact => ("compact", None),
        Cleanup::Delete { retention_ms } => ("delete", retention_ms),
    };
    let ((policy_wanted, kept_wanted), (policy_found, kept_found)) =
        (policy(wanted), policy(found));
    let kept = |kept: Option<u64>| kept.map_or_else(|| "for ever".to_owned(), |ms| ms.to_string());
    let is_shorter =
        kept_found.is_some_and(|found| kept_wanted.is_none_or(|wanted| found < wanted));
    let (limit_wanted, limit_found) = (wanted.max_record_bytes, found.max_record_bytes);
    let (setting, found, wanted_value) = if found.partitions != wanted.partitions {
        ("partitions", found.partitions.to_string(), wanted.partitions.to_string())
    } else if policy_found != policy_wanted {
        ("cleanup.policy", policy_found.to_owned(), policy_wanted.to_owned())
    } else if is_shorter {
        ("retention.ms", kept(kept_found), kept(kept_wanted))
    } else if limit_found < limit_wanted {
        ("max.message.bytes", limit_found.to_string(), limit_wanted.to_string())
    } else {
        return Ok(());
    };
    Err(Error::WrongSetting {
        topic: wanted.name.to_string(),
        setting: setting.to_owned(),
        found,
        wanted: wanted_value,
        hint: hint.to_owned(),
    })
}

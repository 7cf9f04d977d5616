//! The topics of a cluster as they have to be.

use anabranch_core::keyspace::SliceCount;
use anabranch_schemas::topics::ClusterName;

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

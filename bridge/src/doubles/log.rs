//! A log of its own for a test.

use std::sync::Arc;

use tempfile::TempDir;

use anabranch_core::keyspace::SliceCount;
use anabranch_journal::embedded::{EmbeddedConfig, EmbeddedJournal};
use anabranch_journal::{Journal, cluster_topics};
use anabranch_schemas::topics::ClusterName;

/// An embedded log with the topics of a cluster; it is there while the directory is kept.
pub(crate) fn embedded_log(
    cluster: &ClusterName,
    slices: SliceCount,
) -> (Arc<EmbeddedJournal>, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let config = EmbeddedConfig { sync: false, ..EmbeddedConfig::new(dir.path()) };
    let journal = EmbeddedJournal::open(config).unwrap();
    journal.ensure_topics(&cluster_topics(cluster, slices, None)).unwrap();
    (journal, dir)
}

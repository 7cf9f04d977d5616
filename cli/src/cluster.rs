//! What every process of a cluster does first: sees to the topics, and learns which cluster it is.

use std::sync::Arc;
use std::time::Duration;

use anabranch_core::ErrorKind;
use anabranch_core::ids::ActorId;
use anabranch_core::keyspace::SliceCount;
use anabranch_journal::metadata::{ClusterIdentity, MetadataError, MetadataStore};
use anabranch_journal::{Journal, TopicSpec, cluster_topics};
use anabranch_runtime::admin::ReadyFlag;
use anabranch_runtime::clock::now_millis;
use anabranch_runtime::retry::Backoff;
use anabranch_runtime::tasks::Shutdown;
use anabranch_schemas::topics::ClusterName;
use anyhow::{Context, Result};
use uuid::Uuid;

use crate::failure::Failure;
use crate::settings::Settings;

const FIRST_DELAY: Duration = Duration::from_millis(200);
const MOST_DELAY: Duration = Duration::from_secs(5);

/// A cluster as its settings want it. Only the first process of a new cluster decides its slices.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) name: ClusterName,
    pub(crate) slices: SliceCount,
    pub(crate) retention_ms: Option<u64>,
}

impl Plan {
    pub(crate) fn new(name: ClusterName, settings: &Settings) -> Result<Self> {
        let slices = SliceCount::try_from(settings.slices);
        Ok(Plan {
            name,
            slices: slices.map_err(|error| Failure::usage(format!("setting 'slices': {error}")))?,
            retention_ms: (settings.retention_ms > 0).then_some(settings.retention_ms),
        })
    }

    /// Waits for the journal, makes what is missing and learns which cluster this is. `None` if the
    /// shutdown begins meanwhile. `ready` says what is being waited for. With `known` it does not
    /// wait: who knows already goes on with that.
    ///
    /// # Errors
    /// If waiting does not help: wrong settings of a topic, or data that makes no sense.
    pub(crate) async fn open(
        self,
        journal: &Arc<dyn Journal>,
        ready: &ReadyFlag,
        known: Option<ClusterIdentity>,
        shutdown: &Shutdown,
    ) -> Result<Option<ClusterIdentity>> {
        let mut backoff = Backoff::new(FIRST_DELAY, MOST_DELAY);
        loop {
            let (plan, journal) = (self.clone(), journal.clone());
            let opening = tokio::task::spawn_blocking(move || plan.try_open(&journal));
            let opened = tokio::select! {
                opened = opening => opened.context("prepare the cluster")?,
                () = shutdown.begun() => return Ok(None),
            };
            let error = match opened {
                Ok(identity) => {
                    ready.set_ready();
                    return Ok(Some(identity));
                }
                Err(error) => error,
            };
            if !may_pass(error.kind()) {
                let cluster = self.name.as_str();
                return Err(error).with_context(|| format!("prepare cluster '{cluster}'"));
            }
            if let Some(known) = known {
                tracing::warn!(%error, "the journal cannot be used yet; going on by what is known");
                ready.set_ready();
                return Ok(Some(known));
            }
            let delay = backoff.next_delay().max(FIRST_DELAY);
            tracing::warn!(%error, "the journal cannot be used yet; trying again");
            ready.set_not_ready(error.to_string());
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = shutdown.begun() => return Ok(None),
            }
        }
    }

    /// The metadata first: it says how many slices the other topics have.
    fn try_open(&self, journal: &Arc<dyn Journal>) -> Result<ClusterIdentity, MetadataError> {
        let Plan { name, slices, retention_ms } = self;
        let is_metadata = |topic: &TopicSpec| topic.name.as_str() == name.meta();
        let planned = cluster_topics(name, *slices, *retention_ms);
        let metadata: Vec<_> = planned.into_iter().filter(is_metadata).collect();
        journal.ensure_topics(&metadata)?;
        let identity =
            MetadataStore::open(journal.clone(), name)?.cluster_identity(|| ClusterIdentity {
                name: name.clone(),
                actor: ActorId(Uuid::new_v4()),
                slices: *slices,
                created_ms: now_millis(),
            })?;
        if identity.slices != *slices {
            let found = identity.slices.get();
            tracing::info!(found, "the cluster keeps the number of slices it was made with");
        }
        journal.ensure_topics(&cluster_topics(name, identity.slices, *retention_ms))?;
        Ok(identity)
    }
}

fn may_pass(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Retry | ErrorKind::Unknown | ErrorKind::Fenced)
}

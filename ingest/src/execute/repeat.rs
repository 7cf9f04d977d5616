//! Statements that are repeated under one key: the reply is made again from what was written.

use std::sync::Arc;
use std::time::Duration;

use anabranch_core::ErrorKind;
use anabranch_core::ids::TxnId;
use anabranch_journal::{Journal, Offset, ReadFrom, Record, TopicPartition};
use anabranch_runtime::tasks::waiting;
use anabranch_schemas::decode;
use anabranch_schemas::records::{Commit, RoundPart};
use anabranch_schemas::topics::ClusterName;
use tokio::time::Instant;

use super::run::{Run, check_digest};
use super::{Executor, Written};
use crate::document::{DocumentName, Warning, Warnings};
use crate::error::Refusal;
use crate::store::Outcome;

/// How long reading a round from the log may take.
const READ_TIME: Duration = Duration::from_secs(5);

impl Executor {
    /// What an earlier try under the same key did, as far as a node knows that may be behind.
    pub(super) async fn earlier(&self, run: &Run<'_>) -> Result<Option<Written>, Refusal> {
        // What an UPDATE or DELETE touches is not known before: any slice.
        let slices = self.store.slices(run.inserted_ids());
        match self.store.outcome(run.round.id, None, &slices, run.request.deadline).await? {
            Some(outcome) => {
                check_digest(&outcome, &run.round)?;
                self.repeated(run, outcome).await.map(Some)
            }
            None => Ok(None),
        }
    }

    /// The reply for a statement whose round was applied before.
    pub(super) async fn repeated(
        &self,
        run: &Run<'_>,
        outcome: Outcome,
    ) -> Result<Written, Refusal> {
        let mut written = run.written(Some(outcome.txn), Vec::new(), Warnings::default());
        // The ids of an INSERT follow from the statement and its key.
        let documents = match &run.inserted {
            Some(inserted) => Some(inserted.clone()),
            None => self.log.documents(outcome.txn, run.request.deadline).await,
        };
        match documents {
            Some(documents) => written.documents = documents,
            None => written.warnings.push(Warning::new(
                "ids_unknown",
                "this request was applied before; the ids of its documents cannot be read now",
            )),
        }
        written.settle(run, outcome);
        Ok(written)
    }
}

/// Reads rounds from the log.
#[derive(Clone)]
pub(crate) struct RoundLog {
    journal: Arc<dyn Journal>,
    cluster: ClusterName,
}

impl RoundLog {
    pub(crate) fn new(journal: Arc<dyn Journal>, cluster: ClusterName) -> Self {
        RoundLog { journal, cluster }
    }

    /// The documents of the round that was committed as `txn`, in order of id; `None` if the log
    /// does not give them.
    async fn documents(&self, txn: TxnId, deadline: Instant) -> Option<Vec<DocumentName>> {
        let log = self.clone();
        let deadline = deadline.min(Instant::now() + READ_TIME);
        match waiting(move || log.read(txn, deadline)).await {
            Ok(Ok(documents)) => documents,
            Ok(Err(error)) => {
                tracing::warn!(%txn, %error, "a round could not be read again");
                None
            }
            Err(_) => None,
        }
    }

    fn read(
        &self,
        txn: TxnId,
        deadline: Instant,
    ) -> Result<Option<Vec<DocumentName>>, anabranch_journal::Error> {
        let at = TopicPartition::new(self.cluster.txns(), 0);
        let Some(record) = self.record(at, Offset(txn.0), deadline)? else { return Ok(None) };
        let Some(commit) = value::<Commit>(&record) else { return Ok(None) };
        let mut documents = Vec::new();
        for part in commit.parts {
            let at = TopicPartition::new(self.cluster.rounds(), part.slice.0);
            let record = self.record(at, Offset(part.offset), deadline)?;
            let Some(part) = record.and_then(|record| value::<RoundPart>(&record)) else {
                return Ok(None);
            };
            documents.extend(part.mutations.iter().map(DocumentName::of));
        }
        documents.sort();
        documents.dedup();
        Ok(Some(documents))
    }

    /// The record at one offset.
    fn record(
        &self,
        at: TopicPartition,
        offset: Offset,
        deadline: Instant,
    ) -> Result<Option<Record>, anabranch_journal::Error> {
        let mut reader = self.journal.reader(&[(at, ReadFrom::Offset(offset))])?;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            match reader.poll(left) {
                Ok(records) if records.is_empty() => {}
                Ok(records) => {
                    return Ok(records.into_iter().next().filter(|r| r.offset == offset));
                }
                Err(error) if error.kind() == ErrorKind::Retry => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn value<T: anabranch_schemas::Record>(record: &Record) -> Option<T> {
    decode(record.value.as_ref()?).ok()
}

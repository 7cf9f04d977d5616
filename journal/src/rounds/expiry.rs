//! Writes now and then into the log that what was deleted long ago is to be dropped. Any server may
//! do so, several do no harm, and none has to: it is a transaction of its own, there or not.

use std::sync::Arc;
use std::time::Duration;

use anabranch_core::ids::TxnId;
use anabranch_schemas::topics::ClusterName;

use super::{RoundAppender, lane_prefix};
use crate::error::Error;
use crate::log::{Journal, Offset, TopicPartition, TransactionalId};
use crate::rotating::run_transaction;

/// Writes expiries.
pub struct Expiries {
    journal: Arc<dyn Journal>,
    txns: TopicPartition,
    appender: RoundAppender,
    id: TransactionalId,
    time_to_live: Duration,
}

impl Expiries {
    /// By a server of this name; documents go on hiding for so long what they were.
    pub fn new(
        journal: Arc<dyn Journal>,
        cluster: &ClusterName,
        appender: RoundAppender,
        server: &str,
        time_to_live: Duration,
    ) -> Self {
        let id = TransactionalId::from(lane_prefix(cluster, server) + "expiry");
        let txns = TopicPartition::new(cluster.txns(), 0);
        Expiries { journal, txns, appender, id, time_to_live }
    }

    /// Ends what an earlier process of this name has left open, which hides all that comes after
    /// it. Blocks.
    ///
    /// # Errors
    /// Those of the journal.
    pub fn recover(&self) -> Result<(), Error> {
        self.journal.writer(&self.id).map(drop)
    }

    /// Writes one, unless the log is empty: a cluster without data stays one. Blocks.
    ///
    /// # Errors
    /// Those of the journal. It may be tried again after any of them.
    pub fn write(&self) -> Result<Option<TxnId>, Error> {
        if self.journal.bounds(&self.txns)?.end == Offset::default() {
            return Ok(None);
        }
        // They are so rare that no writer is kept.
        let mut writer = self.journal.writer(&self.id)?;
        let written = run_transaction(writer.as_mut(), |writer| {
            self.appender.append_expiry(writer, self.time_to_live)
        });
        written.map(Some)
    }
}

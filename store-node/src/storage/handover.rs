//! What one replica hands over to another that lacks what the log no longer has: what was written
//! between two transactions, as of the later one.
//!
//! The later one is a snapshot that is held meanwhile, so it does not matter when each part is read
//! nor, since replicas are equal (ST-2), from which of them.

use std::ops::ControlFlow;

use anabranch_core::ids::TxnId;
use bytes::Bytes;

use super::engine::{Family, Scope};
use super::outcome::outcome_txn;
use super::progress::{Progress, decode_progress};
use super::{Storage, keys};
use crate::error::Error;

/// A table that is handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Table {
    /// What became of rounds, by their ids: what makes a repeated round do nothing.
    Rounds,
    /// The newest version of each document.
    Versions,
}

/// One entry of a table, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The round id, or the document's.
    pub(crate) key: Bytes,
    /// Who wrote it.
    pub(crate) txn: TxnId,
    pub(crate) value: Bytes,
}

impl Storage {
    /// How far the store is now.
    pub(crate) fn progress(&self) -> Result<Progress, Error> {
        let stored = self.read_once(keys::PROGRESS)?;
        decode_progress(&stored.unwrap_or_default())
    }

    /// Visits a table as of the transactions below `until`, in order of key, behind `after`: key,
    /// who wrote it, and value as it is stored. Of a document that is its newest version then; the
    /// snapshot has to be held. Of a round it is its last outcome then. What was not there yet is
    /// visited as well, since passing over it takes its time, too.
    pub(crate) fn entries(
        &self,
        table: Table,
        until: TxnId,
        after: &[u8],
        mut visit: impl FnMut(&[u8], Option<(TxnId, &[u8])>) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        match table {
            Table::Rounds => self.rounds(until, after, visit),
            Table::Versions => {
                let Some(at) = until.0.checked_sub(1) else { return Ok(()) };
                let after = (!after.is_empty()).then_some(after);
                self.versions(&[], after, TxnId(at), |id, version| Ok(visit(id, version)))
            }
        }
    }

    fn rounds(
        &self,
        until: TxnId,
        after: &[u8],
        mut visit: impl FnMut(&[u8], Option<(TxnId, &[u8])>) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let mut rounds = self.engine.cursor(Family::Rounds, Scope::Below(None));
        rounds.seek(after);
        while let Some((key, value)) = rounds.item() {
            if key != after && !keys::is_earlier_round(key) {
                let txn = written_by(value)?;
                let flow = if txn < until {
                    visit(key, Some((txn, value)))
                } else {
                    let earlier = self.earlier_outcome(key)?.filter(|(txn, _)| *txn < until);
                    visit(key, earlier.as_ref().map(|(txn, value)| (*txn, value.as_slice())))
                };
                if flow.is_break() {
                    return Ok(());
                }
            }
            rounds.next();
        }
        rounds.status().map_err(|error| self.failed("read", error))
    }

    /// What had become of a round when it was applied the time before, as it is stored.
    pub(super) fn earlier_outcome(&self, round: &[u8]) -> Result<Option<(TxnId, Vec<u8>)>, Error> {
        self.stored_outcome(&keys::earlier_round_key(round))
    }

    /// An outcome as it is stored.
    pub(super) fn stored_outcome(&self, key: &[u8]) -> Result<Option<(TxnId, Vec<u8>)>, Error> {
        let found = self.engine.get(Family::Rounds, key);
        let found = found.map_err(|error| self.failed("read a round", error))?;
        found.map(|value| Ok((written_by(&value)?, value))).transpose()
    }
}

/// The transaction of an outcome.
fn written_by(outcome: &[u8]) -> Result<TxnId, Error> {
    let broken = || Error::CorruptStore("an outcome does not decode".to_owned());
    outcome_txn(outcome).ok_or_else(broken)
}

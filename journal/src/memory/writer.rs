//! Writes transactions into a log in memory.

use std::sync::Arc;

use parking_lot::MutexGuard;

use super::{Shared, State};
use crate::error::Error;
use crate::log::{NewRecord, Offset, TransactionalId, Writer};

/// The writer of an id, until there is a newer one.
pub(super) struct MemoryWriter {
    shared: Arc<Shared>,
    id: TransactionalId,
    epoch: u64,
    is_open: bool,
    was_fenced: bool,
    /// Offsets that were not yet given.
    appended: Vec<Offset>,
}

impl MemoryWriter {
    pub(super) fn new(shared: Arc<Shared>, id: TransactionalId, epoch: u64) -> Self {
        MemoryWriter { shared, id, epoch, is_open: false, was_fenced: false, appended: Vec::new() }
    }

    /// The log, unless a newer writer has taken over.
    fn state(&mut self) -> Result<MutexGuard<'_, State>, Error> {
        let mut state = self.shared.lock();
        if state.epochs.get(&self.id) == Some(&self.epoch) {
            return Ok(state);
        }
        if !std::mem::replace(&mut self.was_fenced, true) {
            *state.fenced.entry(self.id.clone()).or_default() += 1;
        }
        Err(Error::Fenced(self.id.clone()))
    }

    fn needs_open(&self) -> Result<(), Error> {
        let none = || Error::Invalid("there is no open transaction".to_owned());
        if self.is_open { Ok(()) } else { Err(none()) }
    }

    fn end(&mut self, commits: bool) -> Result<(), Error> {
        self.needs_open()?;
        let id = self.id.clone();
        self.state()?.end(&id, commits);
        self.is_open = false;
        self.appended.clear();
        self.shared.changed.notify_all();
        Ok(())
    }
}

impl Writer for MemoryWriter {
    fn begin(&mut self) -> Result<(), Error> {
        if self.is_open {
            return Err(Error::Invalid("a transaction is open already".to_owned()));
        }
        drop(self.state()?);
        self.is_open = true;
        Ok(())
    }

    fn append(&mut self, record: NewRecord) -> Result<(), Error> {
        self.needs_open()?;
        let now_ms = self.shared.now_ms();
        let (at, bytes) = {
            let value = record.value.as_ref().map_or(0, |value| value.len());
            (record.at.clone(), record.key.len() + value)
        };
        let id = self.id.clone();
        let mut state = self.state()?;
        let limit = state.record_limit(&at)?;
        if bytes > limit {
            return Err(Error::TooLarge { bytes, limit });
        }
        let offset = state.partition_mut(&at)?.append(record, now_ms);
        state.open.entry(id).or_default().push((at, offset));
        drop(state);
        self.appended.push(offset);
        Ok(())
    }

    fn flush(&mut self) -> Result<Vec<Offset>, Error> {
        self.needs_open()?;
        drop(self.state()?);
        Ok(std::mem::take(&mut self.appended))
    }

    fn commit(&mut self) -> Result<(), Error> {
        self.end(true)
    }

    fn abort(&mut self) -> Result<(), Error> {
        self.end(false)
    }

    fn is_spent(&self) -> bool {
        false
    }
}

impl Drop for MemoryWriter {
    fn drop(&mut self) {
        // One that was fenced has nothing open any more.
        if self.is_open {
            let _ = self.end(false);
        }
    }
}

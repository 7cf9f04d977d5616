//! Reads a log in memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Shared, State};
use crate::error::Error;
use crate::log::{Offset, Reader, Record, TopicPartition};

/// How many records one poll gives of a partition at most.
const RECORDS: usize = 500;

/// A reader of some partitions.
pub(super) struct MemoryReader {
    shared: Arc<Shared>,
    positions: BTreeMap<TopicPartition, Offset>,
}

impl MemoryReader {
    pub(super) fn new(shared: Arc<Shared>, positions: BTreeMap<TopicPartition, Offset>) -> Self {
        MemoryReader { shared, positions }
    }

    fn read(&mut self, state: &State) -> Result<Vec<Record>, Error> {
        let mut all = Vec::new();
        for (at, position) in &mut self.positions {
            let partition = state.partition(at)?;
            let start = partition.start();
            if *position < start {
                return Err(Error::Trimmed { at: at.clone(), wanted: *position, start });
            }
            let (records, next) = partition.read(*position, RECORDS);
            all.extend(records);
            *position = next;
        }
        Ok(all)
    }
}

impl Reader for MemoryReader {
    fn poll(&mut self, timeout: Duration) -> Result<Vec<Record>, Error> {
        let deadline = Instant::now() + timeout;
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        loop {
            let records = self.read(&state)?;
            if !records.is_empty() || timeout.is_zero() {
                return Ok(records);
            }
            if Instant::now() >= deadline {
                return Ok(records);
            }
            shared.changed.wait(&mut state, Some(deadline));
        }
    }

    fn position(&self, at: &TopicPartition) -> Option<Offset> {
        self.positions.get(at).copied()
    }
}

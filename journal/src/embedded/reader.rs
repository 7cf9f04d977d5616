//! The reader of the embedded log. It waits on a condition that commits and aborts notify.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Condvar;

use super::Shared;
use super::layout::PartitionKey;
use super::state::{PartitionIndex, State};
use super::store::Range;
use crate::error::Error;
use crate::log::{Offset, ReadFrom, Reader, Record, TopicPartition};

/// What each partition of a poll may return at least, so that each gets on.
const MIN_PARTITION_BYTES: usize = 64 << 10;

/// In place of a timeout that the clock cannot hold.
const FOR_EVER: Duration = Duration::from_secs(1 << 30);

/// A partition that is being read.
#[derive(Debug)]
struct Place {
    at: TopicPartition,
    index: PartitionIndex,
    key: PartitionKey,
    position: Offset,
}

/// A reader.
pub(super) struct EmbeddedReader {
    shared: Arc<Shared>,
    places: Vec<Place>,
    news: Arc<Condvar>,
}

impl EmbeddedReader {
    /// A reader of these partitions.
    pub(super) fn open(
        shared: Arc<Shared>,
        from: &[(TopicPartition, ReadFrom)],
    ) -> Result<Self, Error> {
        let news = Arc::new(Condvar::new());
        let mut places = Vec::with_capacity(from.len());
        let mut state = shared.state();
        for (at, from) in from {
            let index = state.find(at)?;
            let partition = state.partition(index);
            let bounds = partition.bounds();
            let position = match from {
                ReadFrom::Start => bounds.start,
                ReadFrom::End => bounds.end,
                ReadFrom::Offset(offset) if *offset > partition.next() => {
                    return Err(Error::Corrupt(format!(
                        "offset {offset} of {at} is past its end, {}: the log is not the one that \
                         was read before",
                        partition.next()
                    )));
                }
                ReadFrom::Offset(offset) => *offset,
            };
            let place = Place { at: at.clone(), index, key: partition.key, position };
            check_start(&state, &place)?;
            places.push(place);
        }
        for place in &places {
            state.watch(place.index, &news);
        }
        drop(state);
        Ok(EmbeddedReader { shared, places, news })
    }

    /// Waits until there is something to read; returns to which end in which place.
    fn wait(&self, deadline: Instant) -> Result<Vec<(usize, Offset)>, Error> {
        let timeout = self.shared.config.transaction_timeout;
        let mut may_show = true;
        let mut state = self.shared.state();
        loop {
            let mut ready = Vec::new();
            let mut hidden = Vec::new();
            for (number, place) in self.places.iter().enumerate() {
                check_start(&state, place)?;
                let partition = state.partition(place.index);
                let end = partition.bounds().end;
                if end > place.position {
                    ready.push((number, end));
                } else if partition.hidden_end().is_some() {
                    hidden.push(place.index);
                }
            }
            if ready.is_empty() && !hidden.is_empty() && may_show {
                drop(state);
                // If it cannot be stored now, this reader stays before the holes.
                may_show = self.shared.show_ends(&hidden).is_ok();
                state = self.shared.state();
                continue;
            }
            let now = Instant::now();
            if !ready.is_empty() || now >= deadline {
                return Ok(ready);
            }
            // An open transaction that hides others from this reader ends by its timeout, if
            // nobody else notices.
            let until = state.next_expiry(timeout).map_or(deadline, |expiry| expiry.min(deadline));
            self.news.wait_until(&mut state, until);
            state.expire(Instant::now(), timeout);
        }
    }

    fn read(&mut self, ready: &[(usize, Offset)]) -> Result<Vec<Record>, Error> {
        let max_bytes = (self.shared.config.poll_max_bytes / ready.len()).max(MIN_PARTITION_BYTES);
        let mut records = Vec::new();
        let mut positions = Vec::with_capacity(ready.len());
        for (number, end) in ready {
            let Place { at, index: _, key, position } = &self.places[*number];
            let range = Range { at, key: *key, from: *position, to: *end };
            positions.push(self.shared.store.read(&range, max_bytes, &mut records)?);
        }
        // What was trimmed meanwhile may be missing from what was read.
        let state = self.shared.state();
        for (number, _) in ready {
            check_start(&state, &self.places[*number])?;
        }
        drop(state);
        for ((number, _), position) in ready.iter().zip(positions) {
            self.places[*number].position = position;
        }
        Ok(records)
    }
}

/// Fails if what this place is to read next was trimmed.
fn check_start(state: &State, place: &Place) -> Result<(), Error> {
    let start = state.partition(place.index).bounds().start;
    if place.position < start {
        return Err(Error::Trimmed { at: place.at.clone(), wanted: place.position, start });
    }
    Ok(())
}

impl Reader for EmbeddedReader {
    fn poll(&mut self, timeout: Duration) -> Result<Vec<Record>, Error> {
        let now = Instant::now();
        let deadline = now.checked_add(timeout).unwrap_or(now + FOR_EVER);
        self.shared.retain_if_due();
        let ready = self.wait(deadline)?;
        // There may be holes only. Then it returns at once all the same: whoever reads to the end
        // waits for the position, which has moved.
        if ready.is_empty() { Ok(Vec::new()) } else { self.read(&ready) }
    }

    fn position(&self, at: &TopicPartition) -> Option<Offset> {
        self.places.iter().find(|place| place.at == *at).map(|place| place.position)
    }
}

impl Drop for EmbeddedReader {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        for place in &self.places {
            state.unwatch(place.index, &self.news);
        }
    }
}

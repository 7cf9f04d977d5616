//! How much memory live queries take, and who may take more: each app its share.

use std::collections::HashMap;
use std::sync::Arc;

use anabranch_core::ids::AppId;
use parking_lot::Mutex;

use crate::error::{Code, Refusal};
use crate::metrics;

/// What live queries hold together.
pub(super) struct Memory {
    held: Mutex<HashMap<AppId, usize>>,
    most: usize,
}

/// What one of them holds.
pub(super) struct Held {
    memory: Arc<Memory>,
    app: AppId,
    bytes: usize,
}

impl Memory {
    /// So many bytes at most.
    pub(super) fn new(most: usize) -> Self {
        Memory { held: Mutex::default(), most }
    }

    /// A share for a live query of an app, which begins with so much.
    pub(super) fn share(self: &Arc<Self>, app: AppId, bytes: usize) -> Result<Held, Refusal> {
        let mut held = Held { memory: Arc::clone(self), app, bytes: 0 };
        held.set(bytes)?;
        Ok(held)
    }

    /// Changes what an app holds. Whether it may hold that: half of all at most and, if all is held,
    /// no more than its part.
    fn change(&self, app: AppId, from: usize, to: usize) -> bool {
        let mut held = self.held.lock();
        let own = held.entry(app).or_default();
        *own = *own + to - from;
        let own = *own;
        if own == 0 {
            held.remove(&app);
        }
        let (all, apps) = (held.values().sum::<usize>(), held.len().max(1));
        metrics::live_bytes(all);
        to <= from || (own <= self.most / 2 && (all <= self.most || own <= self.most / apps))
    }
}

impl Held {
    /// Holds so many bytes from now on, if that is not too much.
    pub(super) fn set(&mut self, bytes: usize) -> Result<(), Refusal> {
        let before = std::mem::replace(&mut self.bytes, bytes);
        if self.memory.change(self.app, before, bytes) {
            return Ok(());
        }
        let message = "the live queries of the app take too much memory together";
        Err(Refusal::new(Code::Overloaded, message).with_hint(
            "follow less, or at another server, or allow more with ingest.max_live_bytes",
        ))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.memory.change(self.app, self.bytes, 0);
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn one_app_leaves_room_for_others() {
        let memory = Arc::new(Memory::new(1_000));
        let [a, b, c] = [1, 2, 3].map(|app| AppId(Uuid::from_u128(app)));
        let mut of_a = memory.share(a, 400).unwrap();
        assert!(memory.share(a, 101).is_err(), "it has half");
        of_a.set(500).unwrap();
        let of_b = memory.share(b, 500).unwrap();
        // All is held: who has little may have a little more.
        let mut of_c = memory.share(c, 10).unwrap();
        of_c.set(300).unwrap();
        assert!(of_c.set(400).is_err());
        assert!(of_a.set(501).is_err());
        of_a.set(200).unwrap();
        drop((of_a, of_b, of_c));
        assert!(memory.held.lock().is_empty());
    }
}

//! Batches under way: sent, and not yet in the receiver's log.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};

use prost::Message as _;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use anabranch_core::ids::TxnId;
use anabranch_runtime::clock::now_millis;
use anabranch_schemas::link::{self, message::Kind};

use super::position::At;
use crate::error::Error;
use crate::link::Flow;

/// What a receiver has confirmed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Confirmed {
    /// Where it is.
    pub(crate) next: TxnId,
    /// Whether that is within a snapshot.
    pub(crate) snapshot: bool,
    /// How long ago the batch that brought it there was sent.
    pub(crate) took: std::time::Duration,
}

/// Batches under way on one link.
#[derive(Debug, Default)]
pub(crate) struct Window {
    state: Mutex<State>,
    shrunk: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// The number of the last batch that was sent.
    sent: u64,
    flow: Flow,
    under_way: VecDeque<Sent>,
}

#[derive(Debug)]
struct Sent {
    number: u64,
    next: TxnId,
    snapshot: bool,
    at: Instant,
}

impl Window {
    /// Sends a batch, once there is room for it. One task at a time sends.
    pub(crate) async fn send(
        &self,
        outgoing: &mpsc::Sender<Kind>,
        rounds: Vec<link::Round>,
        at: &At,
        digest: u64,
    ) -> Result<(), Error> {
        let position = at.to_wire(digest);
        let (next, snapshot) = (TxnId(position.next), position.snapshot.is_some());
        let number = self.state().sent + 1;
        let mut batch = link::Batch { rounds, position: Some(position), sent_ms: 0, number };
        loop {
            // Before the check, so that no notification is missed.
            let shrunk = self.shrunk.notified();
            batch.sent_ms = now_millis();
            if self.take_room(&batch, next, snapshot) {
                break;
            }
            shrunk.await;
        }
        outgoing.send(Kind::Batch(batch)).await.map_err(|_| Error::Closed)
    }

    fn take_room(&self, batch: &link::Batch, next: TxnId, snapshot: bool) -> bool {
        let (number, bytes) = (batch.number, batch.encoded_len());
        let mut state = self.state();
        let has_room = state.flow.has_room(bytes);
        if has_room {
            state.sent = number;
            state.flow.add(number, bytes);
            state.under_way.push_back(Sent { number, next, snapshot, at: Instant::now() });
        }
        has_room
    }

    /// The receiver has written the batches up to `number`.
    pub(crate) fn confirm(&self, number: u64) -> Result<Option<Confirmed>, Error> {
        let mut state = self.state();
        if number > state.sent {
            return Err(Error::protocol("a batch was confirmed that was never sent"));
        }
        let mut confirmed = None;
        while let Some(first) = state.under_way.front().filter(|sent| sent.number <= number) {
            confirmed = Some(Confirmed {
                next: first.next,
                snapshot: first.snapshot,
                took: first.at.elapsed(),
            });
            state.under_way.pop_front();
        }
        state.flow.confirm(number);
        self.shrunk.notify_one();
        Ok(confirmed)
    }

    /// How many batches are under way.
    pub(crate) fn under_way(&self) -> usize {
        self.state().under_way.len()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it is held")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::{WINDOW, WINDOW_BYTES};

    #[tokio::test]
    async fn a_sender_waits_for_room() {
        let window = Window::default();
        let (outgoing, mut sent) = mpsc::channel(2 * WINDOW);
        for _ in 0..WINDOW {
            window.send(&outgoing, vec![], &At::Tail(TxnId(1)), 0).await.unwrap();
        }
        let at = At::Tail(TxnId(2));
        let mut waiting = std::pin::pin!(window.send(&outgoing, vec![], &at, 0));
        assert!(futures::poll!(&mut waiting).is_pending());
        assert_eq!(window.confirm(1).unwrap().unwrap().next, TxnId(1));
        waiting.await.unwrap();
        let mut numbers = Vec::new();
        while let Ok(Kind::Batch(batch)) = sent.try_recv() {
            numbers.push(batch.number);
        }
        assert_eq!(numbers, (1..=WINDOW as u64 + 1).collect::<Vec<_>>());
        assert!(window.confirm(WINDOW as u64 + 2).is_err());
        assert!(window.confirm(1).unwrap().is_none());
    }

    #[tokio::test]
    async fn a_sender_waits_until_there_is_room_for_the_bytes() {
        let window = Window::default();
        let (outgoing, _sent) = mpsc::channel(WINDOW);
        let rounds = |bytes: usize| {
            let change = link::Change { state: vec![0; bytes].into(), ..link::Change::default() };
            vec![link::Round { changes: vec![change], ..link::Round::default() }]
        };
        let at = At::Tail(TxnId(1));
        window.send(&outgoing, rounds(WINDOW_BYTES), &at, 0).await.unwrap();
        let mut waiting = std::pin::pin!(window.send(&outgoing, rounds(1), &at, 0));
        assert!(futures::poll!(&mut waiting).is_pending());
        window.confirm(1).unwrap();
        waiting.await.unwrap();
        assert_eq!(window.under_way(), 1);
    }
}

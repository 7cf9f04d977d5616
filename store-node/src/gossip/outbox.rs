//! What waits to be sent to one peer: at most one message, which holds the newest of everything.

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::message::Message;

/// Between the task that decides what to send and the one that sends it to one peer. The first
/// never waits for the second.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    waiting: Mutex<Waiting>,
    posted: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    message: Option<Message>,
    is_closed: bool,
}

impl Outbox {
    /// Something to send, together with what still waits.
    pub(super) fn post(&self, message: Message) {
        let mut waiting = self.waiting.lock();
        match &mut waiting.message {
            Some(earlier) => earlier.absorb(message),
            None => waiting.message = Some(message),
        }
        drop(waiting);
        self.posted.notify_one();
    }

    /// Nothing more is to be sent.
    pub(super) fn close(&self) {
        self.waiting.lock().is_closed = true;
        self.posted.notify_one();
    }

    /// The next message, once there is one; `None` once nothing more is to be sent.
    pub(super) async fn take(&self) -> Option<Message> {
        loop {
            {
                let mut waiting = self.waiting.lock();
                if waiting.is_closed {
                    return None;
                }
                if let Some(message) = waiting.message.take() {
                    return Some(message);
                }
            }
            self.posted.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::doubles::{announce, node};
    use super::*;

    #[tokio::test]
    async fn only_the_newest_waits() {
        let outbox = Outbox::default();
        for base in 1..100 {
            let announces = vec![Arc::new(announce("a", base, base))];
            outbox.post(Message { announces, ..Message::ping(node("a")) });
        }
        let taken = outbox.take().await.unwrap();
        assert_eq!(taken.announces, [Arc::new(announce("a", 99, 99))]);
        outbox.post(Message::ping(node("a")));
        outbox.close();
        assert_eq!(outbox.take().await, None);
    }
}

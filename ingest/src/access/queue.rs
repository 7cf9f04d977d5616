//! Those who wait for something slow that strangers can ask for: few have their turn at once, some wait
//! for it, and nobody for long. Who comes when there is no room is refused. Of the places those
//! who come for the same thing may have a [`Share`] only, so that there is room for others.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::error::{Code, Refusal};

/// How long somebody may wait for a turn.
const WAIT: Duration = Duration::from_secs(5);

/// Those who wait to have something looked at.
pub(super) struct Queue {
    /// What, such as `keys`.
    what: &'static str,
    places: Arc<Semaphore>,
    turns: Arc<Semaphore>,
}

/// The places that those who come for the same thing may have at once.
pub(super) struct Share(Arc<Semaphore>);

/// A turn: somebody's as long as it is held.
pub(super) struct Turn {
    _of_share: Option<OwnedSemaphorePermit>,
    _place: OwnedSemaphorePermit,
    _turn: OwnedSemaphorePermit,
}

impl Share {
    /// One of so many places.
    pub(super) fn new(places: usize) -> Self {
        Share(Arc::new(Semaphore::new(places)))
    }
}

impl Queue {
    /// One with this many places, of whom so many have their turn at once.
    pub(super) fn new(what: &'static str, places: usize, at_once: usize) -> Self {
        let [places, turns] = [places, at_once].map(|most| Arc::new(Semaphore::new(most)));
        Queue { what, places, turns }
    }

    /// Waits for a turn.
    ///
    /// # Errors
    /// If there is no room, or it takes too long.
    pub(super) async fn turn(&self) -> Result<Turn, Refusal> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| self.full())?;
        match timeout(WAIT, Arc::clone(&self.turns).acquire_owned()).await {
            Ok(Ok(turn)) => Ok(Turn { _of_share: None, _place: place, _turn: turn }),
            Ok(Err(_)) => Err(Refusal::stopping()),
            Err(_) => Err(self.full()),
        }
    }

    /// Waits for a turn, in one of the places of a share: who waits no more gives back both.
    ///
    /// # Errors
    /// If there is no room, in the queue or in the share, or it takes too long.
    pub(super) async fn turn_within(&self, share: &Share) -> Result<Turn, Refusal> {
        let of_share = Arc::clone(&share.0).try_acquire_owned().map_err(|_| self.full())?;
        let turn = self.turn().await?;
        Ok(Turn { _of_share: Some(of_share), ..turn })
    }

    fn full(&self) -> Refusal {
        let message = format!("too many {} are shown for the first time", self.what);
        Refusal::new(Code::Overloaded, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_comes_when_there_is_no_room_is_refused_at_once() {
        let queue = Queue::new("keys", 2, 1);
        let first = queue.turn().await.unwrap();
        let mut second = Box::pin(queue.turn());
        assert!(futures::poll!(&mut second).is_pending());
        let refusal = queue.turn().await.err().unwrap();
        assert_eq!(refusal.code(), Code::Overloaded);
        assert_eq!(refusal.message(), "too many keys are shown for the first time");
        drop(first);
        assert!(second.await.is_ok());
        assert!(queue.turn().await.is_ok());
    }

    #[tokio::test]
    async fn a_place_of_a_share_is_given_back_by_who_had_a_turn_and_by_who_waits_no_more() {
        let queue = Queue::new("keys", 4, 1);
        let [share, of_others] = [Share::new(2), Share::new(2)];
        let first = queue.turn_within(&share).await.unwrap();
        let mut second = Box::pin(queue.turn_within(&share));
        assert!(futures::poll!(&mut second).is_pending());
        let refusal = queue.turn_within(&share).await.err().unwrap();
        assert_eq!(refusal.code(), Code::Overloaded);
        let mut other = Box::pin(queue.turn_within(&of_others));
        assert!(futures::poll!(&mut other).is_pending(), "there is room for others");
        drop(second);
        let mut third = Box::pin(queue.turn_within(&share));
        assert!(futures::poll!(&mut third).is_pending());
        drop((first, other));
        assert!(third.await.is_ok());
        assert_eq!((share.0.available_permits(), queue.places.available_permits()), (2, 4));
    }
}

//! A value that others watch: only the newest counts.
//!
//! As `tokio::sync::watch`, but that whoever waits is woken in the order in which they began to wait:
//! so a simulation can be repeated.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{RwLock, RwLockReadGuard};
use tokio::sync::Notify;

/// A value, and who changes it.
#[derive(Debug)]
pub struct Watched<T>(Arc<Shared<T>>);

#[derive(Debug)]
struct Shared<T> {
    value: RwLock<T>,
    version: AtomicU64,
    changed: Notify,
}

/// Watches a value. It goes on when nobody can change that any more: then it waits for ever.
#[derive(Debug)]
pub struct Watcher<T> {
    shared: Arc<Shared<T>>,
    /// The version that was seen last.
    seen: u64,
}

impl<T> Watched<T> {
    /// A value.
    pub fn new(value: T) -> Self {
        let (value, version) = (RwLock::new(value), AtomicU64::new(0));
        Watched(Arc::new(Shared { value, version, changed: Notify::new() }))
    }

    /// The value now, which does not change while this is held.
    pub fn get(&self) -> RwLockReadGuard<'_, T> {
        self.0.value.read()
    }

    /// Changes it.
    pub fn change(&self, change: impl FnOnce(&mut T)) {
        {
            let mut value = self.0.value.write();
            change(&mut value);
            self.0.version.fetch_add(1, Ordering::Release);
        }
        self.0.changed.notify_waiters();
    }

    /// Watches it; what it is now counts as seen.
    pub fn watch(&self) -> Watcher<T> {
        let seen = self.0.version.load(Ordering::Acquire);
        Watcher { shared: Arc::clone(&self.0), seen }
    }
}

impl<T> Clone for Watcher<T> {
    fn clone(&self) -> Self {
        Watcher { shared: Arc::clone(&self.shared), seen: self.seen }
    }
}

impl<T> Watcher<T> {
    /// The value now, which does not change while this is held.
    pub fn get(&self) -> RwLockReadGuard<'_, T> {
        self.shared.value.read()
    }

    /// The same, which counts as seen.
    pub fn see(&mut self) -> RwLockReadGuard<'_, T> {
        let value = self.shared.value.read();
        self.seen = self.shared.version.load(Ordering::Acquire);
        value
    }

    /// Waits until there is a value that was not seen, and counts it as seen.
    pub async fn changed(&mut self) {
        loop {
            // Before it is looked: what changes from here on wakes it.
            let mut changed = std::pin::pin!(self.shared.changed.notified());
            changed.as_mut().enable();
            let now = self.shared.version.load(Ordering::Acquire);
            if now != self.seen {
                self.seen = now;
                return;
            }
            changed.await;
        }
    }

    /// Waits until the value is such, and gives it.
    pub async fn wait_for(&mut self, is_such: impl Fn(&T) -> bool) -> T
    where
        T: Clone,
    {
        loop {
            {
                let value = self.see();
                if is_such(&value) {
                    return value.clone();
                }
            }
            self.changed().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};
    use std::time::Duration;

    use super::*;

    /// What a future gives at once.
    fn now_or_never<F: Future>(future: F) -> Option<F::Output> {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(done) => Some(done),
            Poll::Pending => None,
        }
    }

    #[tokio::test]
    async fn what_changed_is_seen_once() {
        let watched = Watched::new(1);
        let mut watcher = watched.watch();
        assert!(now_or_never(watcher.changed()).is_none(), "what it was counts as seen");
        watched.change(|value| *value += 1);
        watched.change(|value| *value += 1);
        assert!(now_or_never(watcher.changed()).is_some());
        assert_eq!(*watcher.get(), 3);
        assert!(now_or_never(watcher.changed()).is_none());
    }

    #[tokio::test]
    async fn whoever_waits_for_a_value_is_woken() {
        let watched = Watched::new(0);
        let mut watcher = watched.watch();
        let waiting = tokio::spawn(async move { watcher.wait_for(|value| *value >= 5).await });
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_millis(1)).await;
            watched.change(|value| *value += 1);
        }
        assert_eq!(waiting.await.unwrap(), 5);
    }
}

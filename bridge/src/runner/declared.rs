//! Keeps one task running for each replication that is declared.
//!
//! A task that is stopped takes its time: it ends its link, and what it received is written. Until
//! it has ended its key is not used again, so there are never two of one replication, however
//! quickly it is removed and declared anew. All that are to start are made known before any runs:
//! one that hears that a document left must know of the others that may have it.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};

use futures::future::BoxFuture;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use anabranch_core::ids::AppId;
use anabranch_runtime::tasks::owned;
use anabranch_schemas::resources::{ReplicationSpec, ResourceName};

use super::watch::Declared;
use crate::error::Error;

/// Names a replication.
pub(super) type Key = (AppId, ResourceName);

/// Makes replications known and forgets them.
pub(super) trait Replications: Send {
    /// Makes one known; the future runs it until it is told to stop.
    fn add(
        &self,
        key: &Key,
        spec: ReplicationSpec,
        stop: CancellationToken,
    ) -> BoxFuture<'static, ()>;

    /// One has ended.
    fn remove(&self, key: &Key);
}

/// The tasks.
pub(super) struct Runner<R> {
    replications: R,
    running: BTreeMap<Key, (ReplicationSpec, CancellationToken)>,
    stopping: BTreeSet<Key>,
    tasks: JoinSet<Key>,
}

impl<R: Replications> Runner<R> {
    pub(super) fn new(replications: R) -> Self {
        let (running, stopping) = (BTreeMap::new(), BTreeSet::new());
        Runner { replications, running, stopping, tasks: JoinSet::new() }
    }

    /// Stops what is not declared like that any more, and starts what is missing.
    pub(super) fn adjust(&mut self, declared: &Declared) {
        let Runner { replications, running, stopping, tasks } = self;
        running.retain(|key, (spec, stop)| {
            let stays = declared.get(key) == Some(spec);
            if !stays {
                stop.cancel();
                stopping.insert(key.clone());
            }
            stays
        });
        let missing = declared
            .iter()
            .filter(|(key, _)| !running.contains_key(key) && !stopping.contains(key));
        let added: Vec<_> = missing
            .map(|(key, spec)| {
                let stop = CancellationToken::new();
                (key, spec, replications.add(key, spec.clone(), stop.clone()), stop)
            })
            .collect();
        let mut starting = Vec::new();
        for (key, spec, run, stop) in added {
            starting.push((key.clone(), run));
            running.insert(key.clone(), (spec.clone(), stop));
        }
        for (key, run) in starting {
            tasks.spawn(owned(async move {
                run.await;
                key
            }));
        }
    }

    /// Waits for a task to end; for ever if there is none. What is declared is to be looked at
    /// again then.
    ///
    /// # Errors
    /// If it panicked: a part of the process is lost, and the rest is better started anew with it.
    pub(super) async fn ended(&mut self) -> Result<(), Error> {
        match self.tasks.join_next().await {
            Some(ended) => self.end(ended),
            None => std::future::pending().await,
        }
    }

    fn end(&mut self, ended: Result<Key, JoinError>) -> Result<(), Error> {
        let key = ended.map_err(|error| {
            let why =
                error.try_into_panic().map_or("it was aborted".to_owned(), |p| panic_text(&*p));
            Error::Corrupt(format!("the task of a replication panicked: {why}"))
        })?;
        self.stopping.remove(&key);
        self.running.remove(&key);
        self.replications.remove(&key);
        Ok(())
    }

    /// Stops all and waits for them.
    pub(super) async fn stop(mut self) -> Result<(), Error> {
        self.adjust(&Declared::new());
        while let Some(ended) = self.tasks.join_next().await {
            self.end(ended)?;
        }
        Ok(())
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::sync::Semaphore;
    use uuid::Uuid;

    use super::*;

    /// Replications that end only when they are let go, and what became of them.
    #[derive(Clone)]
    struct Slow {
        history: Arc<Mutex<Vec<String>>>,
        go: Arc<Semaphore>,
    }

    impl Replications for Slow {
        fn add(
            &self,
            key: &Key,
            spec: ReplicationSpec,
            stop: CancellationToken,
        ) -> BoxFuture<'static, ()> {
            let (slow, name) = (self.clone(), key.1.to_string());
            self.note(format!("add {name}"));
            Box::pin(async move {
                assert!(spec.connections.is_empty(), "told to panic");
                slow.note(format!("run {name}"));
                stop.cancelled().await;
                slow.go.acquire().await.unwrap().forget();
            })
        }

        fn remove(&self, key: &Key) {
            self.note(format!("remove {}", key.1));
        }
    }

    impl Slow {
        fn note(&self, what: String) {
            self.history.lock().unwrap().push(what);
        }
    }

    fn slow() -> (Slow, Runner<Slow>) {
        let slow = Slow { history: Arc::default(), go: Arc::new(Semaphore::new(0)) };
        (slow.clone(), Runner::new(slow))
    }

    fn declared(names: &[&str]) -> Declared {
        let app = AppId(Uuid::nil());
        let key = |name: &&str| ((app, name.parse().unwrap()), ReplicationSpec::default());
        names.iter().map(key).collect()
    }

    #[tokio::test]
    async fn one_that_is_declared_again_waits_until_it_has_ended() {
        let (slow, mut runner) = slow();
        runner.adjust(&declared(&["a"]));
        tokio::task::yield_now().await;
        runner.adjust(&declared(&[]));
        runner.adjust(&declared(&["a"]));
        assert_eq!(*slow.history.lock().unwrap(), ["add a", "run a"]);
        slow.go.add_permits(1);
        runner.ended().await.unwrap();
        runner.adjust(&declared(&["a"]));
        tokio::task::yield_now().await;
        let history = slow.history.lock().unwrap().clone();
        assert_eq!(history, ["add a", "run a", "remove a", "add a", "run a"]);
        slow.go.add_permits(1);
        runner.stop().await.unwrap();
        assert_eq!(slow.history.lock().unwrap().last().unwrap(), "remove a");
    }

    #[tokio::test]
    async fn all_are_known_before_one_runs() {
        let (slow, mut runner) = slow();
        runner.adjust(&declared(&["a", "b"]));
        tokio::task::yield_now().await;
        assert_eq!(slow.history.lock().unwrap()[..2], ["add a", "add b"]);
    }

    #[tokio::test]
    async fn a_panic_is_not_overlooked() {
        let (_slow, mut runner) = slow();
        let mut specs = declared(&["a"]);
        for spec in specs.values_mut() {
            spec.connections.push("x:1".to_owned());
        }
        runner.adjust(&specs);
        let error = runner.ended().await.unwrap_err();
        assert!(error.to_string().contains("told to panic"), "{error}");
    }
}

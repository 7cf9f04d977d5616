//! What all threads of a run share.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anabranch_tests::cluster::Api;
use anabranch_tests::history::{Document, Moment, Server, Txn};
use parking_lot::Mutex;

use crate::watch::{SHORT, Stretch};

/// The collections whose documents are always there, and that all sessions write.
pub(crate) const COLLECTIONS: [&str; 2] = ["items", "carts"];
/// Documents of each.
pub(crate) const DOCUMENTS: usize = 24;
/// The collection whose documents come and go.
pub(crate) const DRAFTS: &str = "drafts";
/// Documents of it that one session writes and all read.
const DRAFTS_OF_EACH: usize = 5;

/// The id of a document that is always there.
pub(crate) fn id(number: usize) -> String {
    format!("d{number}")
}

/// A document that is always there.
pub(crate) fn document(collection: &str, number: usize) -> Document {
    Document { collection: collection.to_owned(), id: id(number) }
}

/// The documents that a session makes and deletes.
pub(crate) fn drafts(session: usize) -> Vec<Document> {
    let id = |number| format!("s{session}-{number}");
    let ids = (0..DRAFTS_OF_EACH).map(id);
    ids.map(|id| Document { collection: DRAFTS.to_owned(), id }).collect()
}

/// All collections in which there ever is something that sessions read.
pub(crate) fn collections() -> impl Iterator<Item = &'static str> {
    COLLECTIONS.into_iter().chain([DRAFTS])
}

/// All documents of a collection that ever are there.
pub(crate) fn documents(collection: &str) -> Vec<Document> {
    if collection == DRAFTS {
        return (0..crate::SESSIONS).flat_map(drafts).collect();
    }
    (0..DOCUMENTS).map(|number| document(collection, number)).collect()
}

/// What all threads of a run share.
pub(crate) struct Stage {
    pub(crate) seed: u64,
    began: Instant,
    /// When it was over, if it is.
    stopped: OnceLock<Duration>,
    failure: Mutex<Option<anyhow::Error>>,
    /// The servers of the HTTP API, and how often each was started again.
    servers: Vec<(Api, AtomicU64)>,
    /// Requests that failed, which then were made again or given up.
    pub(crate) refused: AtomicU64,
    /// Reads of sessions that took a while until they were answered, whatever they had to be asked for
    /// again.
    pub(crate) waits: Mutex<Vec<Stretch>>,
}

impl Stage {
    pub(crate) fn new(seed: u64, servers: Vec<Api>) -> Self {
        Stage {
            seed,
            began: Instant::now(),
            stopped: OnceLock::new(),
            failure: Mutex::new(None),
            servers: servers.into_iter().map(|api| (api, AtomicU64::new(0))).collect(),
            refused: AtomicU64::new(0),
            waits: Mutex::default(),
        }
    }

    /// Time since the run began.
    pub(crate) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    pub(crate) fn moment(&self) -> Moment {
        Moment(u64::try_from(self.now().as_nanos()).expect("no test takes centuries"))
    }

    /// Tells all threads to come to an end.
    pub(crate) fn stop(&self) {
        // The first time counts.
        let _ = self.stopped.set(self.now());
    }

    pub(crate) fn is_over(&self) -> bool {
        self.stopped.get().is_some()
    }

    /// How long it lasted, or lasts so far.
    pub(crate) fn lasted(&self) -> Duration {
        self.stopped.get().copied().unwrap_or_else(|| self.now())
    }

    /// Ends the run: something is wrong.
    pub(crate) fn fail(&self, error: anyhow::Error) {
        self.failure.lock().get_or_insert(error);
    }

    /// Fails if a thread did.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        self.failure.lock().take().map_or(Ok(()), Err)
    }

    /// Does something again and again until the run is over.
    pub(crate) fn until_over(&self, mut step: impl FnMut() -> anyhow::Result<()>) {
        while !self.is_over() {
            if let Err(error) = step() {
                self.fail(error);
                return;
            }
        }
    }

    /// A session has waited for an answer.
    pub(crate) fn waited(&self, wait: Stretch) {
        if wait.length() > SHORT {
            self.waits.lock().push(wait);
        }
    }

    pub(crate) fn servers(&self) -> usize {
        self.servers.len()
    }

    pub(crate) fn api(&self, server: usize) -> &Api {
        &self.servers[server].0
    }

    /// This server as it lives now.
    pub(crate) fn server(&self, number: usize) -> Server {
        Server { number, life: self.servers[number].1.load(Ordering::SeqCst) }
    }

    /// This server has died.
    pub(crate) fn died(&self, number: usize) {
        self.servers[number].1.fetch_add(1, Ordering::SeqCst);
    }
}

/// What sessions leave for each other: the last transaction that one has seen.
pub(crate) struct Notes(Vec<Mutex<Option<(usize, Txn)>>>);

impl Notes {
    pub(crate) fn new(sessions: usize) -> Self {
        Notes((0..sessions).map(|_| Mutex::new(None)).collect())
    }

    pub(crate) fn leave(&self, to: usize, from: usize, seen: Txn) {
        *self.0[to].lock() = Some((from, seen));
    }

    pub(crate) fn take(&self, of: usize) -> Option<(usize, Txn)> {
        self.0[of].lock().take()
    }
}

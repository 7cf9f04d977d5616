//! Live queries: the result of a SELECT, and then what changes it.
//!
//! ```text
//!  store nodes --feed--> Follower --changes--> View (one task per query) --events--> subscribers
//!       ^                                       |
//!       +--------------- reads -----------------+
//! ```
//!
//! What is asked for once is kept once: a [`View`] is of a statement with its arguments and of what its
//! callers may read, has the rows in memory and a log of events as they are sent. Whoever subscribes
//! beside others is a place in that log and costs the store nothing. One that takes its events so slowly
//! that the log no longer has them is sent the whole result again; nobody waits for it.
//!
//! A change is told apart by the transaction that made it. A view reads its rows as of some transaction
//! and takes from the feed what came later: rows that are documents are kept by looking at each changed
//! document, all others (LIMIT, OFFSET, groups) are read again, not more often than they take to read.
//! Nothing here is durable: a view that missed something, for whatever reason, reads its rows again, and
//! tells its subscribers how they differ.
//!
//! An event holds all that a transaction changed in the result (IN-2), and names it: whoever comes back
//! says the last one that came, to this server or another.

mod event;
mod follow;
mod log;
mod row_set;
mod subscription;
#[cfg(test)]
mod tests;
mod view;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use anabranch_core::ids::{AppId, DocumentId, TxnId};
use anabranch_core::query::{self, Args, Select, Statement, parse_filter};
use anabranch_runtime::tasks::{self, Shutdown};
use anabranch_runtime::watched::Watched;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::access::{Caller, Readable};
use crate::config::IngestConfig;
use crate::error::{Code, Refusal};
use crate::store::{Question, Store};

use view::View;

pub(crate) use event::ended;
pub(crate) use subscription::Subscription;

/// How many subscribers that come back are compared with what they had at once; others are sent the
/// whole result.
const COMPARED_AT_ONCE: usize = 4;

/// Follows the cluster for live queries, as long as there are any.
#[derive(Clone)]
pub(crate) struct Live(Arc<Shared>);

struct Shared {
    store: Store,
    read_timeout: Duration,
    shutdown: Shutdown,
    registry: Mutex<Registry>,
    /// Everything below this was handed out, or will not be: views that are registered by now and read
    /// as of it miss nothing. None until the feed is open.
    taken: Watched<Option<TxnId>>,
    /// Everything below this was handed out.
    handed_out: AtomicU64,
    memory: Arc<Memory>,
    comparing: Semaphore,
}

#[derive(Default)]
struct Registry {
    views: HashMap<Asked, Arc<View>>,
    watched: Arc<ByCollection>,
    /// Whether somebody follows.
    is_followed: bool,
}

/// The views of each collection, by what its documents' canonical ids begin with.
type ByCollection = HashMap<Vec<u8>, Vec<Arc<View>>>;

/// What is asked for: whoever asks for the same shares a view.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Asked {
    app: AppId,
    statement: String,
    /// As JSON.
    args: String,
    readable: Readable,
}

/// How much the views may hold together, in bytes.
struct Memory {
    held: AtomicUsize,
    most: usize,
}

/// A share of it.
struct Held {
    memory: Arc<Memory>,
    bytes: usize,
}

/// Where a subscriber begins.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Start {
    /// It has everything up to this transaction.
    pub(crate) has: Option<TxnId>,
    /// What it is sent first includes this one.
    pub(crate) at_least: Option<TxnId>,
}

impl Live {
    pub(crate) fn new(config: &IngestConfig, store: Store, shutdown: Shutdown) -> Self {
        let memory = Memory { held: AtomicUsize::new(0), most: config.max_live_bytes };
        Live(Arc::new(Shared {
            store,
            read_timeout: config.request_timeout(),
            shutdown,
            registry: Mutex::default(),
            taken: Watched::new(None),
            handed_out: AtomicU64::new(0),
            memory: Arc::new(memory),
            comparing: Semaphore::new(COMPARED_AT_ONCE),
        }))
    }

    /// Subscribes to a SELECT.
    pub(crate) fn subscribe(
        &self,
        app: AppId,
        caller: Caller,
        statement: String,
        args: &Args,
        start: Start,
    ) -> Result<Subscription, Refusal> {
        let select = match query::parse(&statement, args)? {
            Statement::Select(select) => select,
            other => {
                let message = format!("{} has no result that changes", name(&other));
                let refusal = Refusal::new(Code::Unsupported, message);
                return Err(refusal.with_hint("subscribe to a SELECT"));
            }
        };
        let readable = caller.readable(&select.collection)?;
        let args = serde_json::to_string(args).expect("arguments have string keys");
        let view = self.view(Asked { app, statement, args, readable }, select)?;
        Ok(Subscription::new(self.clone(), view, caller, start))
    }

    /// The view of what is asked for, with one subscriber more.
    fn view(&self, asked: Asked, mut select: Select) -> Result<Arc<View>, Refusal> {
        if !asked.readable.as_str().is_empty() {
            select.restrict(parse_filter(asked.readable.as_str())?)?;
        }
        let shared = &self.0;
        let mut registry = shared.registry.lock();
        if let Some(view) = registry.views.get(&asked) {
            view.subscribers.fetch_add(1, Ordering::Relaxed);
            return Ok(Arc::clone(view));
        }
        let held = shared.memory.share()?;
        let prefix = DocumentId::collection_prefix(asked.app, &select.collection);
        let (view, told) = View::new(asked.clone(), select);
        let view = Arc::new(view);
        registry.views.insert(asked, Arc::clone(&view));
        let watched = Arc::make_mut(&mut registry.watched);
        watched.entry(prefix).or_default().push(Arc::clone(&view));
        tasks::spawn(view::keep(self.clone(), Arc::clone(&view), told, held));
        if !std::mem::replace(&mut registry.is_followed, true) {
            tasks::spawn(follow::follow(self.clone()));
        }
        Ok(view)
    }

    /// Drops a view, unless somebody subscribed to it meanwhile and it `is_idle` only.
    fn forget(&self, view: &Arc<View>, is_idle: bool) -> bool {
        let mut registry = self.0.registry.lock();
        if is_idle && view.subscribers.load(Ordering::Relaxed) > 0 {
            return false;
        }
        registry.views.remove(&view.asked);
        let prefix = DocumentId::collection_prefix(view.asked.app, view.collection());
        let watched = Arc::make_mut(&mut registry.watched);
        if let Some(views) = watched.get_mut(&prefix) {
            views.retain(|other| !Arc::ptr_eq(other, view));
            if views.is_empty() {
                watched.remove(&prefix);
            }
        }
        true
    }

    fn stopping(&self) -> Refusal {
        Refusal::new(Code::ShuttingDown, "the server is being stopped")
    }
}

impl Asked {
    /// It as store nodes are asked.
    fn question<'a>(&'a self, args: &'a Args) -> Question<'a> {
        let Asked { app, statement, args: _, readable } = self;
        Question { app: *app, statement, args, readable }
    }

    fn args(&self) -> Args {
        serde_json::from_str(&self.args).expect("they were encoded here")
    }
}

impl Memory {
    /// A share, as long as not all is held.
    fn share(self: &Arc<Self>) -> Result<Held, Refusal> {
        let held = Held { memory: Arc::clone(self), bytes: 0 };
        if self.held.load(Ordering::Relaxed) >= self.most { Err(held.refusal()) } else { Ok(held) }
    }
}

impl Held {
    /// Holds so many bytes from now on, if that is not too much.
    fn set(&mut self, bytes: usize) -> Result<(), Refusal> {
        let before = std::mem::replace(&mut self.bytes, bytes);
        let all = self.memory.held.fetch_add(bytes.wrapping_sub(before), Ordering::Relaxed);
        let all = all.wrapping_add(bytes.wrapping_sub(before));
        if bytes > before && all > self.memory.most { Err(self.refusal()) } else { Ok(()) }
    }

    fn refusal(&self) -> Refusal {
        let most = self.memory.most;
        let message = format!("the results of live queries take more than {most} bytes together");
        Refusal::new(Code::Overloaded, message)
            .with_hint("subscribe at another server, or allow more with ingest.max_live_bytes")
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.memory.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

fn name(statement: &Statement) -> String {
    statement.kind().replace('_', " ").to_uppercase()
}

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
//! tells its subscribers how they differ. So what is too large to be looked at is simply missed.
//!
//! An event holds all that a transaction changed in the result (IN-2), and names it: whoever comes back
//! says the last one that came, to this server or another. Events are told in the order of their
//! transactions, none twice.

mod event;
mod follow;
mod keeper;
mod log;
mod memory;
mod row_set;
mod subscription;
#[cfg(test)]
mod tests;
mod view;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anabranch_core::ids::{ActorId, AppId, TxnId};
use anabranch_core::query::{self, Args, Select, Statement, parse_filter};
use anabranch_runtime::tasks::{self, Shutdown};
use anabranch_runtime::watched::Watched;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::access::{Caller, Readable};
use crate::config::IngestConfig;
use crate::error::{Code, Refusal};
use crate::seal::Seal;
use crate::store::{At, Question, Store};

use event::Tags;
use memory::Memory;
use row_set::RowSet;
use view::View;

pub(crate) use event::{Seen, ended};
pub(crate) use subscription::Subscription;

/// How many results are read at once.
const READ_AT_ONCE: usize = 8;
/// How many subscribers that come back are compared with what they had at once; others are sent the
/// whole result.
const COMPARED_AT_ONCE: usize = 4;
/// How many expressions are evaluated for a document at most: it is done for each that changes.
const MAX_COST: usize = 1_000;
/// About what a view takes beside its rows: for its queue and its statement, as text and as parsed.
const VIEW_BYTES: usize = 16 << 10;
const PARSED: usize = 16;

/// Follows the cluster for live queries, as long as there are any.
#[derive(Clone)]
pub(crate) struct Live(Arc<Shared>);

struct Shared {
    store: Store,
    read_timeout: Duration,
    max_queries: usize,
    max_subscriptions: usize,
    shutdown: Shutdown,
    registry: Mutex<Registry>,
    taken: Watched<Taken>,
    /// Everything below this was handed out.
    handed_out: AtomicU64,
    memory: Arc<Memory>,
    reading: Semaphore,
    comparing: Semaphore,
    /// Places of those who look at documents, beside all else that the server does.
    looking: Semaphore,
}

/// How far the feed is.
#[derive(Clone, Debug, Default)]
struct Taken {
    /// Everything below this was handed out, or will not be: views that are registered by now and read
    /// as of it miss nothing. None until the feed is open.
    next: Option<TxnId>,
    /// Why it is not open.
    failure: Option<Refusal>,
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
    cluster: ActorId,
    app: AppId,
    statement: String,
    /// As JSON.
    args: String,
    readable: Readable,
}

/// Where a subscriber begins.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Start {
    /// What it has.
    pub(crate) has: Option<Seen>,
    /// What it is sent first includes this transaction.
    pub(crate) at_least: Option<TxnId>,
}

impl Start {
    /// The newest transaction that the subscriber says it has seen, be it of something else: it is sent
    /// nothing older.
    pub(crate) fn seen(&self) -> Option<TxnId> {
        self.at_least.max(self.has.map(|has| has.txn))
    }
}

impl Live {
    pub(crate) fn new(config: &IngestConfig, store: Store, shutdown: Shutdown) -> Self {
        let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Live(Arc::new(Shared {
            store,
            read_timeout: config.request_timeout(),
            max_queries: config.max_live_queries,
            max_subscriptions: config.max_subscriptions,
            shutdown,
            registry: Mutex::default(),
            taken: Watched::new(Taken::default()),
            handed_out: AtomicU64::new(0),
            memory: Arc::new(Memory::new(config.max_live_bytes)),
            reading: Semaphore::new(READ_AT_ONCE),
            comparing: Semaphore::new(COMPARED_AT_ONCE),
            looking: Semaphore::new(cores),
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
        let cluster = self.0.store.cluster();
        let view = self.view(Asked { cluster, app, statement, args, readable }, select)?;
        Ok(Subscription::new(self.clone(), view, caller, start))
    }

    /// The view of what is asked for, with one subscriber more.
    fn view(&self, asked: Asked, mut select: Select) -> Result<Arc<View>, Refusal> {
        if !asked.readable.as_str().is_empty() {
            select.restrict(parse_filter(asked.readable.as_str())?);
        }
        check_cost(&select)?;
        let shared = &self.0;
        let mut registry = shared.registry.lock();
        registry.admit(asked.app, shared.max_subscriptions)?;
        if let Some(view) = registry.views.get(&asked) {
            view.subscribers.fetch_add(1, Ordering::Relaxed);
            return Ok(Arc::clone(view));
        }
        registry.make_room(asked.app, shared.max_queries)?;
        let held = shared.memory.share(asked.app, asked.bytes())?;
        let (view, told) = View::new(asked, select);
        let view = Arc::new(view);
        registry.add(&view);
        tasks::spawn(keeper::keep(self.clone(), Arc::clone(&view), told, held));
        if !std::mem::replace(&mut registry.is_followed, true) {
            tasks::spawn(follow::follow(self.clone()));
        }
        Ok(view)
    }

    /// Whoever asks for the same from now on gets another view.
    fn forget(&self, view: &Arc<View>) {
        self.0.registry.lock().remove(view);
    }

    /// The same, unless somebody subscribed meanwhile.
    fn forget_if_idle(&self, view: &Arc<View>) -> bool {
        let mut registry = self.0.registry.lock();
        let is_idle = view.is_idle();
        if is_idle {
            registry.remove(view);
        }
        is_idle
    }

    /// The rows of what is asked for, as of everything below the transaction that comes with them.
    async fn rows(&self, asked: &Asked, at: At) -> Result<(TxnId, RowSet), Refusal> {
        let soon = || Instant::now() + self.0.read_timeout;
        let _place = self.0.reading.acquire().await.expect("it is never closed");
        let args = asked.args();
        let mut rows = self.0.store.query(asked.question(&args), at, soon()).await?;
        let next = rows.txn.map_or(TxnId(0), TxnId::next);
        let mut set = RowSet::default();
        while let Some(items) = rows.next(soon()).await? {
            for item in items {
                let place = item.stands_at().to_vec();
                set.insert(item.key.into(), place, item.item.into());
            }
            set.check()?;
        }
        Ok((next, set))
    }
}

impl Registry {
    fn add(&mut self, view: &Arc<View>) {
        self.views.insert(view.asked.clone(), Arc::clone(view));
        let watched = Arc::make_mut(&mut self.watched);
        watched.entry(view.prefix()).or_default().push(Arc::clone(view));
    }

    fn remove(&mut self, view: &Arc<View>) {
        // Whoever was made room for has been removed before, and may have a successor.
        if self.views.get(&view.asked).is_some_and(|other| Arc::ptr_eq(other, view)) {
            self.views.remove(&view.asked);
        }
        let watched = Arc::make_mut(&mut self.watched);
        if let Some(views) = watched.get_mut(&view.prefix()) {
            views.retain(|other| !Arc::ptr_eq(other, view));
            if views.is_empty() {
                watched.remove(&view.prefix());
            }
        }
    }

    fn of_app(&self, app: AppId) -> impl Iterator<Item = &Arc<View>> {
        self.views.values().filter(move |view| view.asked.app == app)
    }

    /// Refuses one subscriber more of an app that has three of four places of all: the others are for
    /// other apps.
    fn admit(&self, app: AppId, most: usize) -> Result<(), Refusal> {
        let own = self.of_app(app).map(|view| view.subscribers.load(Ordering::Relaxed));
        if own.sum::<usize>() < most - most / 4 {
            return Ok(());
        }
        let message = "as many follow live queries of the app as may at once";
        Err(Refusal::new(Code::Overloaded, message)
            .with_hint("follow at another server, or allow more with ingest.max_subscriptions"))
    }

    /// Makes room for another view of an app: one that nobody follows goes before its time.
    fn make_room(&mut self, app: AppId, most: usize) -> Result<(), Refusal> {
        let own = self.of_app(app).count();
        let (is_full, is_over) = (self.views.len() >= most, own >= most / 2);
        if !is_full && !is_over {
            return Ok(());
        }
        let mut idle = self.views.values().filter(|view| view.is_idle());
        let idle = idle.find(|view| !is_over || view.asked.app == app).cloned();
        let Some(idle) = idle else {
            let message = if is_over {
                "as many live queries of the app are kept as may be at once"
            } else {
                "as many live queries are kept as may be at once"
            };
            return Err(Refusal::new(Code::Overloaded, message).with_hint(
                "ask for the same as others do, follow at another server, or allow more with \
                 ingest.max_live_queries",
            ));
        };
        self.remove(&idle);
        idle.dismiss();
        Ok(())
    }
}

impl Asked {
    /// It as store nodes are asked.
    fn question<'a>(&'a self, args: &'a Args) -> Question<'a> {
        let Asked { cluster: _, app, statement, args: _, readable } = self;
        Question { app: *app, statement, args, readable, most: None }
    }

    fn args(&self) -> Args {
        serde_json::from_str(&self.args).expect("they were encoded here")
    }

    /// What tells it from others in the ids of events.
    fn tags(&self) -> Tags {
        let Asked { cluster, app, statement, args, readable } = self;
        let (app, statement, args) = (app.0.as_bytes(), statement.as_bytes(), args.as_bytes());
        let readable = readable.as_str().as_bytes();
        Tags::new(Seal::new(*cluster, &[b"event", app, statement, args, readable]))
    }

    /// About how much memory a view of it takes without rows.
    fn bytes(&self) -> usize {
        let text = self.statement.len() + self.args.len() + self.readable.as_str().len();
        VIEW_BYTES + PARSED * text
    }
}

/// Refuses what takes too long to evaluate for each document that changes.
fn check_cost(select: &Select) -> Result<(), Refusal> {
    let cost = select.cost();
    if cost <= MAX_COST {
        return Ok(());
    }
    let message = format!(
        "a live query evaluates {MAX_COST} expressions for a document at most, and this one {cost}"
    );
    Err(Refusal::new(Code::QueryTooLarge, message)
        .with_hint("ask for less, or give a list as an argument: x IN (:list)"))
}

fn name(statement: &Statement) -> String {
    statement.kind().replace('_', " ").to_uppercase()
}

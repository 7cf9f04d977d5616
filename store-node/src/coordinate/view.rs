//! What a node knows of its cluster: the configuration, how far each node has come, up to where all
//! of it can be read, and from where on it has to be kept. It also tells the others how far this one
//! has come and what it reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anabranch_core::cluster::{Configuration, Epoch, Member, NodeId};
use anabranch_core::ids::TxnId;
use anabranch_core::interval_map::IntervalMap;
use anabranch_core::keyspace::Slice;
use anabranch_core::slicing::PartitionId;
use anabranch_runtime::planted;
use anabranch_runtime::tasks::{Shutdown, TaskError};
use anabranch_schemas::store as proto;
use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;

use super::horizon::{Horizon, Said};
use super::isolation::{SILENCE, Standstill, isolation};
use super::plan::Candidate;
use super::reading::ActiveReads;
use crate::error::Error;
use crate::gossip::{Applied, Gossip, NotReady, Standing};
use crate::log::Log;
use crate::membership::{Configurations, Membership};
use crate::metrics;
use crate::stability::Stability;
use crate::status::{Status, Trouble};
use crate::storage::Storage;

/// How often the node looks what it reads, what it has to keep and whom it hears.
const LOOK: Duration = Duration::from_millis(500);

/// What this node knows of its cluster.
pub(crate) struct View {
    membership: RwLock<Arc<Membership>>,
    gossip: Gossip,
    log: Arc<Log>,
    status: Arc<Status>,
    storage: Arc<Storage>,
    stability: Mutex<Stability>,
    /// What this node reads on all nodes, and what it has last said of it.
    reads: Arc<ActiveReads>,
    needs_from: AtomicU64,
    /// What all of them need.
    horizon: Mutex<Horizon>,
    /// Too little is heard of the others to answer for them.
    is_cut_off: AtomicBool,
    standstill: Mutex<Standstill>,
    /// It was ever different.
    has_heard: AtomicBool,
    /// Keeps a configuration that is in force for the next start.
    remember: Remember,
}

/// Keeps a configuration on disk.
pub(crate) type Remember = Box<dyn Fn(&Configuration) -> Result<(), Error> + Send + Sync>;

impl View {
    pub(crate) fn new(
        membership: Membership,
        gossip: Gossip,
        log: Arc<Log>,
        status: Arc<Status>,
        storage: Arc<Storage>,
        max_read: Duration,
        remember: Remember,
    ) -> Self {
        let view = View {
            stability: Mutex::new(Stability::new(membership.configuration())),
            membership: RwLock::new(Arc::new(membership)),
            gossip,
            log,
            status,
            storage,
            reads: Arc::new(ActiveReads::new(max_read)),
            needs_from: AtomicU64::new(0),
            horizon: Mutex::new(Horizon::new(max_read)),
            is_cut_off: AtomicBool::new(false),
            standstill: Mutex::default(),
            has_heard: AtomicBool::new(false),
            remember,
        };
        view.advance();
        view.keep();
        view
    }

    /// The configuration in force, and which node this is in it.
    pub(crate) fn membership(&self) -> Arc<Membership> {
        Arc::clone(&self.membership.read())
    }

    pub(crate) fn gossip(&self) -> &Gossip {
        &self.gossip
    }

    /// Whether this node is the only one.
    pub(crate) fn is_alone(&self) -> bool {
        self.membership().configuration().members().len() == 1
    }

    /// The last transaction that is stable as far as is known here, and at least the last one in
    /// the log when this node started: before that any node may have read at it (ST-3). `None` if
    /// there is none. Waits until that end of the log is known.
    pub(crate) async fn stable(&self, patience: Duration) -> Result<Option<TxnId>, Error> {
        let target = self.status.log_end_at_start(patience).await?;
        let target = if planted!(ForgetsItsPast) { TxnId(0) } else { target };
        let stable = self.stability.lock().stable().next;
        Ok(stable.max(target).0.checked_sub(1).map(TxnId))
    }

    /// The last transaction that was ever stable as far as is known here.
    pub(crate) fn known_stable(&self) -> Option<TxnId> {
        self.stability.lock().stable().last()
    }

    /// Whether so little is heard of the others that another node answers better.
    pub(crate) fn is_cut_off(&self) -> bool {
        self.is_cut_off.load(Ordering::Acquire)
    }

    /// What this node reads for its clients.
    pub(crate) fn reads(&self) -> &Arc<ActiveReads> {
        &self.reads
    }

    /// The cluster's GC timestamp as far as is known here: all nodes keep the snapshots from here
    /// on while somebody reads them. It never goes back.
    pub(crate) fn gc_timestamp(&self) -> TxnId {
        self.horizon.lock().bound()
    }

    /// The slices of the log in which a partition has something.
    pub(crate) fn slices_of(&self, partition: PartitionId) -> Vec<Slice> {
        let membership = self.membership();
        let owned = membership.configuration().slicing().owned_by(partition);
        owned.slices(self.log.slices())
    }

    /// The nodes that hold a partition.
    pub(crate) fn candidates(&self, partition: PartitionId) -> Vec<Candidate> {
        let membership = self.membership();
        let epoch = membership.configuration().epoch();
        let replicas = membership.configuration().replicas(partition);
        let candidate = |node: &NodeId| {
            let (announce, suspicion) = self.gossip.look_at(node);
            let standing = announce.as_ref().map(|announce| &announce.standing);
            let standing = standing.filter(|standing| standing.epoch == epoch);
            Candidate {
                node: node.clone(),
                base: standing.map_or(TxnId(0), |standing| standing.applied.base()),
                suspicion,
                is_here: node == membership.node(),
            }
        };
        replicas.map(candidate).collect()
    }

    /// By partition how many of its nodes must have a transaction.
    pub(crate) fn quorums(&self) -> Vec<u32> {
        let membership = self.membership();
        let configuration = membership.configuration();
        let quorum = |partition| u32::try_from(configuration.quorum(partition));
        let quorums = configuration.partitions().map(quorum).collect::<Result<_, _>>();
        quorums.expect("a partition has few nodes")
    }

    /// Every node as it is known here, by partition and name.
    pub(crate) fn nodes(&self) -> Vec<proto::NodeStatus> {
        let membership = self.membership();
        let epoch = membership.configuration().epoch();
        let told = |why: &NotReady| why.as_str().to_owned();
        let status = |(name, member): (&NodeId, &Member)| {
            let (announce, suspicion) = self.gossip.look_at(name);
            let standing = announce.as_ref().map(|announce| &announce.standing);
            let ahead = standing.map_or(&[][..], |standing| standing.applied.ahead());
            let detached: usize = ahead.iter().map(|ahead| ahead.detached.len()).sum();
            proto::NodeStatus {
                name: name.to_string(),
                partition: member.partition.0,
                address: member.address.clone(),
                base: standing.map(|standing| standing.applied.base().0),
                durable: standing.map(|standing| standing.durable.0),
                suspicion: suspicion.share(),
                detached: u32::try_from(detached).unwrap_or(u32::MAX),
                gc_timestamp: standing.map(|standing| standing.gc_timestamp.0),
                copying: standing.and_then(|standing| standing.copying),
                silent_ms: standing.and_then(|_| millis(self.gossip.silence(name))),
                not_ready: standing.and_then(|standing| standing.not_ready.as_ref()).map(told),
                is_whole: standing
                    .is_some_and(|standing| standing.is_whole && standing.epoch == epoch),
                history_from: standing.map(|standing| standing.history_from.0),
                unreached: self.gossip.unreached(name),
            }
        };
        let mut nodes: Vec<_> = membership.configuration().members().iter().map(status).collect();
        nodes.sort_by_key(|node| node.partition);
        nodes
    }

    /// Tells the others of this node and takes in what they tell, and newer configurations, until
    /// the shutdown begins.
    pub(crate) async fn run(
        self: Arc<Self>,
        mut configurations: Configurations,
        shutdown: Shutdown,
    ) -> Result<(), TaskError> {
        let mut applied = self.status.watch();
        let mut heard = self.gossip.changes();
        let mut may_change = true;
        let mut missed = Epoch::default();
        let mut looked: Option<Instant> = None;
        loop {
            drop(applied.see());
            drop(heard.see());
            if looked.is_none_or(|looked| looked.elapsed() >= LOOK) {
                looked = Some(Instant::now());
                self.look();
            }
            self.gossip.announce(self.standing());
            self.advance();
            self.note_newer_epoch(&mut missed);
            tokio::select! {
                biased;
                () = shutdown.begun() => return Ok(()),
                changed = configurations.changed(), if may_change => {
                    // Nobody may be left who could tell of another.
                    may_change = changed.is_ok();
                    let configuration = configurations.borrow_and_update().clone();
                    if !self.take_in(configuration)? {
                        shutdown.begin();
                        return Ok(());
                    }
                }
                () = tokio::time::sleep(LOOK) => {}
                () = applied.changed() => {}
                () = heard.changed() => {}
            }
        }
    }

    /// Says once of each epoch that others are in it and this node is not.
    fn note_newer_epoch(&self, missed: &mut Epoch) {
        let (heard, epoch) = (self.gossip.heard_epoch(), self.membership().configuration().epoch());
        if heard > epoch && heard > *missed {
            *missed = heard;
            tracing::warn!(
                %heard, %epoch,
                "other nodes go by a newer configuration, which this one has not read yet"
            );
        }
    }

    /// Goes by a newer configuration. Whether the node has a place in it: if not, it ends. It fails if
    /// that is another part of the keyspace: started again it is what that says, or says why it cannot
    /// be.
    fn take_in(&self, configuration: Option<Configuration>) -> Result<bool, Error> {
        let current = self.membership();
        let epoch = current.configuration().epoch();
        let newer = configuration.filter(|configuration| configuration.epoch() > epoch);
        let Some(configuration) = newer else { return Ok(true) };
        if configuration.member(current.node()).is_none() {
            tracing::warn!(
                node = %current.node(), epoch = %configuration.epoch(),
                "a newer configuration does not have this node: it ends. Leave it stopped, or start \
                 it again with --node and a name that the configuration has"
            );
            return Ok(false);
        }
        let membership = current.in_newer(configuration)?;
        let configuration = membership.configuration();
        tracing::info!(epoch = %configuration.epoch(), "a newer configuration is in force");
        if let Err(error) = (self.remember)(configuration) {
            tracing::warn!(%error, "the next start may begin with an older configuration");
        }
        self.gossip.configure(configuration);
        self.stability.lock().follow(configuration);
        *self.membership.write() = Arc::new(membership);
        Ok(true)
    }

    fn standing(&self) -> Standing {
        let applied = self.status.applied();
        let mut map = IntervalMap::default();
        // Who has not caught up has nothing to offer yet (ST-3).
        if applied.caught_up {
            map.splice_in(self.log.owned(), &(TxnId(0)..applied.next));
        }
        Standing {
            epoch: self.membership().configuration().epoch(),
            applied: Applied::of(&map, self.log.owned()),
            durable: self.storage.durable().next,
            gc_timestamp: TxnId(self.needs_from.load(Ordering::Acquire)),
            history_from: self.storage.feed_start(),
            copying: self.status.backfilling().map(|copied| copied.entries),
            not_ready: self.status.not_ready().map(NotReady::new),
            is_whole: self.status.is_whole(),
        }
    }

    fn advance(&self) {
        let announces = self.gossip.announces();
        let stable = {
            let mut stability = self.stability.lock();
            stability.advance(announces.iter().map(Arc::as_ref))
        };
        metrics::set_stable(stable.next.0);
    }

    /// Sees to what does not have to be at once.
    fn look(&self) {
        let stable = self.last_stable();
        let served = self.storage.history().oldest_held();
        let needs_from = self.reads.say(served, stable, Instant::now().into_std());
        // What it copies from one replica it may have to go on copying from another one.
        let copied = self.status.backfilling().and_then(|copied| copied.until.0.checked_sub(1));
        let needs_from = copied.map_or(needs_from, |copied| needs_from.min(TxnId(copied)));
        self.needs_from.store(needs_from.0, Ordering::Release);
        self.keep();
        self.note_isolation();
    }

    /// Who is cut off is not ready, until it hears the others again. Whoever has heard nobody yet may
    /// be the first to be started: the next one may be started only once this one is ready.
    fn note_isolation(&self) {
        let is_heard = |node: &NodeId| self.gossip.silence(node) < SILENCE;
        let reads_log = !self.status.has_trouble(Trouble::Commits);
        let why = isolation(&self.membership(), is_heard, reads_log);
        let (applied, stable) = (self.status.applied().next, self.stability.lock().stable().next);
        let stands = self.standstill.lock().note(applied, stable, Instant::now());
        self.is_cut_off.store(why.is_some() || stands, Ordering::Release);
        if why.is_none() {
            self.has_heard.store(true, Ordering::Release);
        }
        let why = why.filter(|_| self.has_heard.load(Ordering::Acquire));
        if self.status.set_trouble(Trouble::CutOff, why.clone()) {
            match why {
                Some(why) => tracing::warn!(why, "other nodes answer for the cluster"),
                None => tracing::info!("the other store nodes are heard again"),
            }
        }
    }

    /// Has kept here what is read anywhere.
    fn keep(&self) {
        let membership = self.membership();
        let members = membership.configuration().members();
        let own = members.get(membership.node()).map(|member| member.partition);
        let needs = members.iter().map(|(node, member)| {
            let announce = self.gossip.look_at(node).0;
            let standing = announce.as_ref().map(|announce| &announce.standing);
            // It copies from those of its own partition.
            let is_copying = own == Some(member.partition)
                && standing.is_some_and(|standing| standing.copying.is_some());
            let said = Said {
                txn: standing.map(|standing| standing.gc_timestamp),
                copies: is_copying.then(|| self.gossip.silence(node)),
            };
            (node.clone(), said)
        });
        let (kept_from, bound) = {
            let mut horizon = self.horizon.lock();
            (horizon.advance(needs, self.last_stable(), Instant::now().into_std()), horizon.bound())
        };
        let kept_from = Some(kept_from).filter(|_| !self.is_alone());
        self.storage.history().keep_from(kept_from);
        metrics::set_gc_timestamp(bound.0);
    }

    fn last_stable(&self) -> TxnId {
        self.known_stable().unwrap_or_default()
    }
}

/// A time in milliseconds; `None` for ever.
fn millis(time: Duration) -> Option<u64> {
    (time < Duration::MAX).then(|| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

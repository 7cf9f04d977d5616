//! Two clusters whose bridges are linked: each wants what is in a filter of the other's documents.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anabranch_bridge::run_simulated;
use anabranch_core::Value;
use anabranch_core::document::Document;
use anabranch_core::ids::{DocumentId, TxnId};
use anabranch_core::query::{Predicate, parse_filter};
use anabranch_journal::metadata::MetadataStore;
use anabranch_journal::{Journal, ReadFrom, TopicPartition, cursors};
use anabranch_runtime::admin::Readiness;
use anabranch_runtime::grpc::AnyOf;
use anabranch_runtime::tasks::Tasks;
use anabranch_schemas::decode;
use anabranch_schemas::records::RemoteCursor;
use anabranch_schemas::resources::{
    OnLeave, ReplicationSpec, Resource, ResourceName, Subscriptions,
};
use parking_lot::Mutex;

use crate::checks;
use crate::cluster::{Cluster, pause};
use crate::dice::Dice;
use crate::model::{Came, Received};
use crate::node_log::NodeLog;
use crate::writers::{APP, COLLECTION, DOCUMENTS, document};

/// What is wanted, if not all is.
const PART: &str = "a < 500";
/// How far clocks may be apart: wall time jumps, and goes fast.
const MAX_DRIFT_MS: u64 = 1_000_000;
/// How long two clusters may take to have the same, in milliseconds.
const PATIENCE_MS: u64 = 120_000;

/// The bridge of a cluster.
pub(crate) struct Bridge {
    name: String,
    log: Mutex<NodeLog>,
    running: Mutex<Option<Tasks>>,
}

impl Bridge {
    pub(crate) fn new(cluster: &str, log: NodeLog) -> Self {
        let name = format!("{cluster}.bridge");
        Bridge { name, log: Mutex::new(log), running: Mutex::new(None) }
    }

    /// The part of it that has ended by itself.
    pub(crate) fn failed_part(&self) -> Option<&'static str> {
        self.running.lock().as_ref()?.failed()
    }
}

impl Cluster {
    /// Starts its bridge, unless that runs.
    pub(crate) fn start_bridge(&self) {
        let mut running = self.bridge.running.lock();
        if running.is_some() {
            return;
        }
        let name = &self.bridge.name;
        self.tell(&format!("{name} starts"));
        let log = self.bridge.log.lock().revive();
        *self.bridge.log.lock() = log.clone();
        let tasks = self.tasks_of(name);
        let nodes = AnyOf::new(&self.addresses(name), None).expect("these are addresses");
        let ready = Readiness::new().register("bridge");
        let identity = self.identity.clone();
        run_simulated(name, MAX_DRIFT_MS, identity, nodes, Arc::new(log), &tasks, ready);
        *running = Some(tasks);
    }

    /// Its bridge dies where it is.
    pub(crate) fn crash_bridge(&self) {
        if let Some(tasks) = self.bridge.running.lock().take() {
            self.tell(&format!("{} dies", self.bridge.name));
            self.bridge.log.lock().die();
            tasks.crash();
        }
    }

    /// The name of its bridge in the network.
    pub(crate) fn bridge_name(&self) -> String {
        self.bridge.name.clone()
    }

    /// Nothing gets from its bridge to that of another cluster any more, or it does again.
    pub(crate) fn cut_link(&self, is_cut: bool) {
        let other = if self.identity.name.as_str() == "a" { "b.bridge" } else { "a.bridge" };
        self.world.network().cut(&self.bridge.name, other, is_cut);
    }
}

/// Two clusters, and what each wants of the other.
pub(crate) struct Pair {
    clusters: [Arc<Cluster>; 2],
    /// By receiver.
    wants: [Option<&'static str>; 2],
    on_leave: [OnLeave; 2],
}

impl Pair {
    /// Links two clusters: what they want of each other is drawn.
    pub(crate) fn link(clusters: [Arc<Cluster>; 2]) -> Self {
        let mut dice = Dice::new(clusters[0].world.number());
        let wants = *dice.one_of(&[
            [Some("true"), Some("true")],
            [Some(PART), Some(PART)],
            [Some("true"), Some(PART)],
            [None, Some(PART)],
        ]);
        let on_leave = [(); 2].map(|()| *dice.one_of(&[OnLeave::Purge, OnLeave::Keep]));
        let dials = *dice.one_of(&[[true, false], [false, true], [true, true]]);
        let pair = Pair { clusters, wants, on_leave };
        for (side, cluster) in pair.clusters.iter().enumerate() {
            let other = pair.clusters[1 - side].bridge.name.as_str();
            cluster.tell(&format!("{} wants {:?}", cluster.identity.name, wants[side]));
            let texts = wants[side]
                .map(|text| (COLLECTION.parse().expect("a name"), vec![text.to_owned()]));
            let spec = ReplicationSpec {
                connections: dials[side].then(|| format!("{other}:4040")).into_iter().collect(),
                subscriptions: Subscriptions { queries_by_collection: texts.into_iter().collect() },
                on_leave: on_leave[side],
            };
            let resource = Resource::Replication { app: APP, name: name(), spec };
            let log = Arc::new(NodeLog::new(cluster.log.clone()));
            let metadata = MetadataStore::open(log, &cluster.identity.name).expect("it is empty");
            let key = resource.id().key();
            metadata.compare_and_set(&key, None, Some(resource.to_json())).expect("it is new");
            cluster.start_bridge();
        }
        pair
    }

    /// Waits until each has all that it wants of the other.
    pub(crate) async fn rest(&self) {
        let [one, two] = &self.clusters;
        let began = one.world.elapsed_ms();
        let ends = || [one, two].map(|cluster| cluster.model.lock().last());
        loop {
            let before = ends();
            checks::rest(one).await;
            checks::rest(two).await;
            let lacking = self.lacking(0).or_else(|| self.lacking(1));
            // While one comes to rest the other one may write.
            let lacking = lacking.or_else(|| (ends() != before).then(|| "they write".to_owned()));
            let Some(lacking) = lacking.filter(|_| one.violation().is_none()) else { return };
            if one.world.elapsed_ms() - began > PATIENCE_MS {
                return one.violate(&format!("BR-1: they do not come to rest: {lacking}"));
            }
            pause(300).await;
        }
    }

    /// What a receiver has not been sent yet.
    fn lacking(&self, to: usize) -> Option<String> {
        self.wants[to]?;
        let (from, to) = (&self.clusters[1 - to], &self.clusters[to]);
        let last = from.model.lock().last()?;
        let log = NodeLog::new(to.log.clone());
        let key = RemoteCursor::key(APP, &name(), from.identity.actor);
        let cursor: Option<RemoteCursor> =
            cursors::read(&log, &to.identity.name, &key).expect("cursors can be read");
        let is_there = cursor
            .as_ref()
            .is_some_and(|cursor| cursor.snapshot_after.is_none() && cursor.next > last);
        (!is_there).then(|| format!("'{}' is at {cursor:?}, not {last}", to.identity.name))
    }

    /// What has to hold once all is at rest.
    pub(crate) fn check_end(&self) {
        for to in 0..2 {
            self.check_has_arrived(to);
            self.check_received(to);
        }
        for number in 0..DOCUMENTS {
            self.check_same(&document(number));
        }
    }

    fn wants(&self, to: usize, id: &DocumentId, value: Option<&Value>) -> bool {
        let (Some(text), Some(Value::Object(fields))) = (self.wants[to], value) else {
            return false;
        };
        let mut fields = fields.clone();
        fields.insert("_id".to_owned(), id.key.to_value());
        predicate(text).matches(&Value::Object(fields))
    }

    fn newest(&self, at: usize, id: &DocumentId) -> Option<Document> {
        self.clusters[at].model.lock().newest(&id.to_bytes())
    }

    /// A receiver has all that the other has of a document that it wants (BR-1).
    fn check_has_arrived(&self, to: usize) {
        for number in 0..DOCUMENTS {
            let id = document(number);
            let Some(sent) = self.newest(1 - to, &id) else { continue };
            // So has it what was deleted, if that can still be told to be wanted.
            if !self.wants(to, &id, Some(&sent.hidden_value())) {
                continue;
            }
            let held = self.newest(to, &id).map(|held| held.versions).unwrap_or_default();
            if !held.covers(&sent.versions) {
                let name = &self.clusters[to].identity.name;
                self.violate(&format!("BR-1: document {number} has not arrived in '{name}'"));
            }
        }
    }

    /// What both want of each other is the same in both (BR-1).
    fn check_same(&self, id: &DocumentId) {
        let documents = [0, 1].map(|at| self.newest(at, id));
        if let [Some(one), Some(two)] = &documents
            && one.versions == two.versions
            && one.value() != two.value()
        {
            self.violate(&format!("BR-1: the same of {} is {one:?} and {two:?}", id.key.as_str()));
        }
        let values = documents.map(|document| document.and_then(|document| document.value()));
        for to in 0..2 {
            let (there, here) = (values[1 - to].as_ref(), values[to].as_ref());
            // What left and is kept is as it was.
            let is_kept = self.on_leave[to] == OnLeave::Keep;
            let is_asked = self.wants(to, id, there) || (!is_kept && self.wants(to, id, here));
            let is_shared = is_asked && self.wants(1 - to, id, here);
            if is_shared && there != here {
                let what = format!("{} is {here:?} here and {there:?} there", id.key.as_str());
                self.violate(&format!("BR-1: {what}"));
            }
        }
    }

    /// What was received came in order and once (BR-2), and was wanted (BR-3).
    fn check_received(&self, to: usize) {
        let (from, to_cluster) = (&self.clusters[1 - to], &self.clusters[to]);
        let snapshots = self.snapshots(to);
        let received = to_cluster.model.lock().received().to_vec();
        let rounds: Vec<_> =
            received.iter().filter(|round| round.origin == from.identity.actor).collect();
        for pair in rounds.windows(2) {
            let [before, after] = [pair[0], pair[1]].map(|round| round.origin_txn);
            let is_wrong = after < before || (after == before && !snapshots.contains(&after));
            if is_wrong {
                self.violate(&format!("BR-2: transaction {after} comes after {before}"));
            }
        }
        for Received { txn, came, .. } in &received {
            for came in came {
                self.check_came(to, *txn, came);
            }
        }
    }

    /// What came was wanted, or the receiver held it or has written a part of it, and is told what became
    /// of it without a field (BR-3). So it may be of what was wanted once: a snapshot may be newer than
    /// its timestamp, and from there on it has left.
    fn check_came(&self, to: usize, txn: TxnId, came: &Came) {
        let Came { id, state, has_left, was_held } = came;
        // What was deleted is judged by what it hides.
        let is_wanted = !has_left && self.wants(to, id, Some(&state.hidden_value()));
        let receiver = self.clusters[to].identity.actor;
        let has_part = state.versions.iter().any(|(actor, _)| actor == receiver);
        let was_wanted = || {
            let sender = self.clusters[1 - to].model.lock();
            let versions = sender.versions_until(&id.to_bytes(), TxnId(u64::MAX));
            versions.iter().any(|version| self.wants(to, id, Some(&version.hidden_value())))
        };
        let is_told = state.fields.is_empty() && (*was_held || has_part || was_wanted());
        if !is_wanted && !is_told {
            let (key, text) = (id.key.as_str(), self.wants[to]);
            self.violate(&format!("BR-3: {key} came as {came:?} at {txn}; {text:?} is wanted"));
        }
    }

    /// The timestamps of snapshots that a receiver was sent.
    fn snapshots(&self, to: usize) -> BTreeSet<TxnId> {
        let Cluster { log, identity, .. } = &*self.clusters[to];
        let at = TopicPartition::new(identity.name.cursors(), 0);
        let mut reader = log.reader(&[(at, ReadFrom::Start)]).expect("the topic is there");
        let mut snapshots = BTreeSet::new();
        loop {
            let records = reader.poll(Duration::ZERO).expect("nothing is trimmed there");
            if records.is_empty() {
                return snapshots;
            }
            let bridges = records.iter().filter(|record| record.key.starts_with(b"bridge/"));
            for value in bridges.filter_map(|record| record.value.as_ref()) {
                let cursor: RemoteCursor = decode(value).expect("a cursor decodes");
                // What is replayed behind all documents comes once.
                let is_behind = |after: &Vec<u8>| after.first() == Some(&0xff);
                if cursor.snapshot_after.is_some_and(|after| !is_behind(&after)) {
                    snapshots.extend(cursor.next.0.checked_sub(1).map(TxnId));
                }
            }
        }
    }

    fn violate(&self, what: &str) {
        self.clusters[0].violate(what);
    }
}

fn name() -> ResourceName {
    "link".parse().expect("a name")
}

fn predicate(text: &str) -> Predicate {
    parse_filter(text).expect("a condition")
}

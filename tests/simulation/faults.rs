//! What happens to a cluster besides its clients, and how it ends again.

use std::collections::BTreeMap;
use std::sync::Arc;

use anabranch_core::ids::{DocumentId, TxnId};
use anabranch_core::keyspace::Slice;
use anabranch_core::query::{FieldPath, IndexOver, IndexPaths};
use anabranch_journal::metadata::DeclaredIndexes;
use anabranch_journal::{Journal, Offset, TopicPartition};
use anabranch_runtime::simulation::Network;
use anabranch_store_node::simulation::Pace;

use crate::cluster::{Cluster, Node, pause};
use crate::dice::Dice;
use crate::members;
use crate::mix::Fault;
use crate::writers::document;

/// How long a message takes when all take long, in microseconds.
const LONG_DELAY_US: std::ops::Range<u64> = 10_000..250_000;
/// How long a node with a slow disk rests between two looks at the log, in microseconds.
const LONG_REST_US: u64 = 300_000;

/// Lets things happen for some time, in milliseconds; all has ended when this returns.
pub(crate) async fn run(cluster: Arc<Cluster>, until_ms: u64) {
    let seed = cluster.world.number();
    let (mut dice, mut of_indexes) = (Dice::new(seed), Dice::new(!seed));
    let mut under_way = Vec::new();
    let faults = cluster.mix.faults;
    while cluster.world.elapsed_ms() < until_ms && cluster.violation().is_none() {
        pause(1 + dice.below(2 * cluster.mix.fault_every_ms)).await;
        declare_indexes(of_indexes.one_of(&cluster.nodes), &mut of_indexes);
        if faults.is_empty() {
            continue;
        }
        let fault = *dice.one_of(faults);
        let (cluster, dice) = (Arc::clone(&cluster), Dice::new(dice.number()));
        under_way.push(tokio::spawn(happen(cluster, fault, dice)));
    }
    for happening in under_way {
        if let Err(panic) = happening.await {
            std::panic::resume_unwind(panic.into_panic());
        }
    }
}

/// A node hears of other indexes than before: some of these.
fn declare_indexes(node: &Node, dice: &mut Dice) {
    const OVER: [&[&str]; 3] = [&["a"], &["by", "a"], &["n"]];
    let bits = dice.below(1 << OVER.len());
    let index = |(number, fields): (usize, &&[&str])| {
        let path = |field: &&str| FieldPath::new(vec![(*field).to_owned()]).expect("a step");
        let paths = fields.iter().map(path).collect();
        let paths = IndexPaths::new(paths).expect("they differ");
        let DocumentId { app, collection, .. } = document(0);
        let name = format!("index{number}").parse().expect("a name");
        (bits >> number & 1 == 1).then_some((IndexOver { app, collection, paths }, name))
    };
    if let Some(running) = &*node.running.lock() {
        let indexes = OVER.iter().enumerate().filter_map(index).collect();
        running.declare_indexes(DeclaredIndexes { indexes, ..DeclaredIndexes::default() });
    }
}

async fn happen(cluster: Arc<Cluster>, fault: Fault, mut dice: Dice) {
    let node = dice.one_of(&cluster.nodes);
    let most_ms = *dice.one_of(&[100, 1_000, 2_500]);
    let for_ms = 20 + dice.below(most_ms);
    cluster.tell(&format!("{fault:?} {} for {for_ms} ms", node.name));
    match fault {
        Fault::Crash => {
            cluster.crash_node(node);
            pause(for_ms).await;
            cluster.start_node(node);
        }
        Fault::Wipe => {
            if !has_another(&cluster, node) {
                return;
            }
            cluster.wipe_node(node);
            pause(for_ms).await;
            cluster.start_node(node);
        }
        Fault::CrashAll => {
            cluster.nodes.iter().for_each(|node| cluster.crash_node(node));
            pause(for_ms).await;
            for node in &cluster.nodes {
                pause(dice.below(200)).await;
                cluster.start_node(node);
            }
        }
        Fault::Pause => {
            set_pause(node, true);
            isolate(&cluster, node, true);
            pause(for_ms).await;
            set_pause(node, false);
            isolate(&cluster, node, false);
        }
        Fault::Cut => {
            isolate(&cluster, node, true);
            pause(for_ms).await;
            isolate(&cluster, node, false);
        }
        Fault::CutOneWay => {
            let other = dice.one_of(&cluster.nodes);
            let way = (node.name.as_str(), other.name.as_str());
            cluster.world.network().cut(way.0, way.1, true);
            pause(for_ms).await;
            cluster.world.network().cut(way.0, way.1, false);
        }
        Fault::SlowNetwork => {
            cluster.world.network().set_delay(LONG_DELAY_US);
            pause(for_ms).await;
            cluster.world.network().set_delay(Network::USUAL_DELAY_US);
        }
        Fault::CutFromLog => {
            node.log.cut(true);
            pause(for_ms).await;
            node.log.cut(false);
        }
        Fault::SlowDisk => {
            rest_for(node, LONG_REST_US);
            pause(for_ms).await;
            rest_for(node, Pace::USUAL_REST_US);
        }
        Fault::Trim => trim(&cluster),
        Fault::TrimAll => trim_all(&cluster),
        Fault::Compact => {
            if let Some(running) = &*node.running.lock() {
                running.compact();
            }
        }
        // Writers die by themselves.
        Fault::CrashWriter => {}
        Fault::CrashServer => {
            let server = dice.one_of(&cluster.servers);
            cluster.crash_server(server);
            pause(for_ms).await;
            cluster.start_server(server);
        }
        Fault::CutServer => {
            let server = dice.one_of(&cluster.servers);
            if dice.once_in(2) {
                server.log.lock().cut(true);
            } else {
                server.log.lock().leave_unanswered(2);
            }
            pause(for_ms).await;
            // It may have died and be another one now.
            server.log.lock().cut(false);
            server.log.lock().leave_unanswered(0);
        }
        Fault::CrashBridge => {
            cluster.crash_bridge();
            pause(for_ms).await;
            cluster.start_bridge();
        }
        Fault::CutLink => {
            cluster.cut_link(true);
            pause(for_ms).await;
            cluster.cut_link(false);
        }
        Fault::CrashCapture => {
            cluster.crash_capture();
            pause(for_ms).await;
            cluster.start_capture();
        }
        Fault::Reconfigure => members::change(&cluster, node, for_ms, dice).await,
        Fault::Jump => {
            let by_ms = i64::try_from(dice.below(10_000)).expect("a small one") - 5_000;
            cluster.world.jump(by_ms);
        }
    }
}

fn set_pause(node: &Node, is_paused: bool) {
    if let Some(running) = &*node.running.lock() {
        running.pace().pause(is_paused);
    }
}

fn rest_for(node: &Node, rest_us: u64) {
    if let Some(running) = &*node.running.lock() {
        running.pace().rest_for(rest_us);
    }
}

/// Cuts a node off from everybody.
fn isolate(cluster: &Cluster, node: &Node, is_cut: bool) {
    let network = cluster.world.network();
    let readers = (0..cluster.mix.readers).map(|number| format!("reader-{number}"));
    let nodes = cluster.nodes.iter().map(|node| node.name.to_string());
    let servers = cluster.servers.iter().map(|server| server.name.clone());
    for other in
        nodes.chain(readers).chain(servers).chain([cluster.capture_name(), cluster.bridge_name()])
    {
        network.cut(node.name.as_str(), &other, is_cut);
        network.cut(&other, node.name.as_str(), is_cut);
    }
}

fn txns(cluster: &Cluster) -> TopicPartition {
    TopicPartition::new(cluster.identity.name.txns(), 0)
}

fn rounds(cluster: &Cluster, slice: Slice) -> TopicPartition {
    TopicPartition::new(cluster.identity.name.rounds(), slice.0)
}

/// All partitions in which rounds stand.
pub(crate) fn partitions(cluster: &Cluster) -> impl Iterator<Item = TopicPartition> {
    let slices = cluster.identity.slices.all().map(|slice| rounds(cluster, slice));
    slices.chain([txns(cluster)])
}

fn start_of(cluster: &Cluster, at: &TopicPartition) -> Offset {
    cluster.log.bounds(at).expect("the topic is there").start
}

/// Whether another replica has, durably, all that the log no longer has.
pub(crate) fn has_another(cluster: &Cluster, node: &Node) -> bool {
    let nothing_trimmed = partitions(cluster).all(|at| start_of(cluster, &at) == Offset(0));
    let is_another = |other: &&Node| other.partition == node.partition && other.name != node.name;
    let mut others = cluster.nodes.iter().filter(is_another);
    cluster.may_lose() || nothing_trimmed || others.any(|other| has_all(cluster, other))
}

fn has_all(cluster: &Cluster, node: &Node) -> bool {
    let (next, slices) = cluster.needs(node);
    next.0 >= start_of(cluster, &txns(cluster)).0
        && !slices.is_empty()
        && cluster.is_member(node)
        && slices
            .iter()
            .all(|(slice, needed)| *needed >= start_of(cluster, &rounds(cluster, *slice)))
}

/// Trims the log up to where one replica of each partition has it all durably.
fn trim(cluster: &Cluster) {
    let mut best: BTreeMap<usize, (TxnId, BTreeMap<Slice, Offset>)> = BTreeMap::new();
    for node in cluster.nodes.iter().filter(|node| has_all(cluster, node)) {
        let needs = cluster.needs(node);
        let best = best.entry(node.partition).or_default();
        if needs.0 >= best.0 {
            *best = needs;
        }
    }
    let count = cluster.nodes.iter().map(|node| node.partition).max().unwrap_or_default() + 1;
    if best.len() < count {
        return;
    }
    let next = best.values().map(|(next, _)| *next).min().unwrap_or_default();
    trim_to(cluster, &txns(cluster), Offset(next.0));
    for slice in cluster.identity.slices.all() {
        let needed = best.values().filter_map(|(_, slices)| slices.get(&slice)).min();
        if let Some(needed) = needed {
            trim_to(cluster, &rounds(cluster, slice), *needed);
        }
    }
}

/// Trims all of it.
fn trim_all(cluster: &Cluster) {
    for at in partitions(cluster) {
        let end = cluster.log.bounds(&at).expect("the topic is there").end;
        trim_to(cluster, &at, end);
    }
}

fn trim_to(cluster: &Cluster, at: &TopicPartition, before: Offset) {
    cluster.follow();
    cluster.tell(&format!("{at} is trimmed to {before}"));
    cluster.log.trim(at, before).expect("it goes that far");
}

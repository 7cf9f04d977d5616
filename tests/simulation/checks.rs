//! What must never happen, looked for all through a run and at its end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anabranch_core::ids::{RoundId, TxnId};
use anabranch_core::keyspace::Slice;
use anabranch_journal::Journal;
use anabranch_store_node::simulation::SimulatedNode;

use crate::captured::Captured;
use crate::cluster::{Cluster, Node, pause};
use crate::faults;
use crate::readers::told;

/// How often it is looked, in milliseconds, and one look in how many is at all documents.
const LOOK_MS: u64 = 20;
const DOCUMENTS_EVERY: u64 = 20;
/// How long a cluster may take to come to rest, in milliseconds.
const PATIENCE_MS: u64 = 60_000;

/// Documents as they are stored, by id.
type Documents = BTreeMap<Vec<u8>, Vec<u8>>;

/// What was seen of a node so far.
#[derive(Default)]
struct Seen {
    stable: Option<TxnId>,
}

/// Looks for as long as the run lasts.
pub(crate) async fn watch(cluster: Arc<Cluster>) {
    let mut seen: BTreeMap<_, Seen> = BTreeMap::new();
    for look in 0_u64.. {
        pause(LOOK_MS).await;
        cluster.follow();
        let is_calm = cluster.mix.reads_succeed;
        for node in &cluster.nodes {
            let running = node.running.lock();
            let Some(running) = &*running else { continue };
            look_at(&cluster, node, running, seen.entry(node.name.clone()).or_default());
            if look.is_multiple_of(DOCUMENTS_EVERY) {
                check_documents(&cluster, node, running, false);
            }
        }
        if let Some(task) = cluster.bridge.failed_part() {
            cluster.violate(&format!("a bridge: its task '{task}' has failed"));
        }
        for server in &cluster.servers {
            if let Some(task) = cluster.failed_part(server) {
                cluster.violate(&format!("{}: its task '{task}' has failed", server.name));
            }
        }
        if is_calm {
            check_reads_are_kept(&cluster);
            check_is_stable(&cluster);
        }
        if cluster.violation().is_some() {
            return;
        }
    }
}

fn look_at(cluster: &Cluster, node: &Node, running: &SimulatedNode, seen: &mut Seen) {
    let name = &node.name;
    // Who has left ends when it hears of it.
    if let Some(task) = running.failed().filter(|_| cluster.is_member(node)) {
        cluster.violate(&format!("{name}: its task '{task}' has failed"));
    }
    if let Some(reason) = running.halted() {
        cluster.violate(&format!("{name} has halted: {reason}"));
    }
    if running.standing().lost_ranges > 0 && !cluster.may_lose() {
        cluster.violate(&format!("ST-5: {name} declares lost what another replica has"));
    }
    let (_, needed) = running.needs();
    let (next, partition) = (running.standing().next, node.id());
    let model = cluster.model.lock();
    let unread = model.unread(needed.into_keys());
    let is_due = |unread: &TxnId| next > *unread && !model.is_passed_over(partition, *unread);
    let unread = unread.filter(is_due);
    drop(model);
    if let Some(unread) = unread {
        cluster.violate(&format!("ST-5: {name} has come to {next}, and cannot have read {unread}"));
    }
    // Who has not seen the log's end yet answers nothing.
    let Some(stable) = running.stable() else { return };
    if seen.stable.is_some_and(|before| stable < before) {
        let before = seen.stable;
        cluster.violate(&format!("ST-3: at {name} {stable} is stable, and {before:?} was before"));
    }
    seen.stable = seen.stable.max(Some(stable));
}

/// A replica of each partition has all that is stable, where none has died.
fn check_is_stable(cluster: &Cluster) {
    let (mut reached, mut stable) = (BTreeMap::new(), None);
    for node in &cluster.nodes {
        let running = node.running.lock();
        let next = running.as_ref().map_or(TxnId(0), |running| running.standing().next);
        stable = stable.max(running.as_ref().and_then(SimulatedNode::stable));
        let reached: &mut TxnId = reached.entry(node.partition).or_default();
        *reached = (*reached).max(next);
    }
    let behind = reached.iter().find(|(_, next)| stable.is_some_and(|stable| **next <= stable));
    if let Some((partition, next)) = behind {
        cluster
            .violate(&format!("ST-3: {stable:?} is stable, and partition {partition} at {next}"));
    }
}

/// The documents of a node, at its newest and its oldest snapshot (ST-1, ST-2, ST-5). At the end those
/// are what is lost by then, and not what was before.
fn check_documents(cluster: &Cluster, node: &Node, running: &SimulatedNode, is_end: bool) {
    let standing = running.standing();
    let last = standing.next.0.checked_sub(1).map(TxnId);
    let Some(last) = last else { return };
    for at in BTreeSet::from([last, standing.oldest]) {
        if at > last {
            continue;
        }
        let found = match running.documents(at) {
            Ok(found) => found,
            Err(error) => return cluster.violate(&format!("ST-1: {}: {error}", node.name)),
        };
        match running.not_indexed(at) {
            Ok(missing) if missing.is_empty() => {}
            Ok(missing) => {
                let text = format!("ST-4: {} does not find at {at}: {missing:?}", node.name);
                return cluster.violate(&text);
            }
            Err(error) => return cluster.violate(&format!("ST-1: {}: {error}", node.name)),
        }
        let is_owned = |position| running.owned().contains(position);
        let model = cluster.model.lock();
        let is_right = match is_end {
            true => found == model.documents(at, is_owned),
            false => model.may_be(&found, at, is_owned),
        };
        let wrong = (!is_right).then(|| model.documents(at, is_owned));
        drop(model);
        if let Some(expected) = wrong {
            let (name, found, expected) = (&node.name, told(&found), told(&expected));
            cluster.violate(&format!(
                "ST-1, ST-2, ST-5: {name} has at {at}: {found}; and the log says: {expected}"
            ));
        }
    }
}

/// Nobody gives up what anybody reads, where all hear each other.
fn check_reads_are_kept(cluster: &Cluster) {
    let running: Vec<_> = cluster.nodes.iter().map(|node| node.running.lock()).collect();
    let read: Vec<_> =
        running.iter().flat_map(|node| node.as_ref().and_then(SimulatedNode::reads_from)).collect();
    let Some(oldest_read) = read.into_iter().min() else { return };
    for (node, running) in cluster.nodes.iter().zip(&running) {
        let oldest = running.as_ref().map(|running| running.standing().oldest);
        if let Some(oldest) = oldest.filter(|oldest| *oldest > oldest_read) {
            let name = &node.name;
            cluster.violate(&format!("ST-4: {name} keeps {oldest} on; {oldest_read} is read"));
        }
    }
}

/// Waits until all nodes have come to the end of the log and everybody knows, and all changes are
/// captured.
pub(crate) async fn rest(cluster: &Cluster) {
    let began = cluster.world.elapsed_ms();
    loop {
        cluster.follow();
        let Some(last) = cluster.model.lock().last() else { return };
        let lacking = open(cluster)
            .or_else(|| cluster.nodes.iter().find_map(|node| behind(node, last)))
            .or_else(|| captured_behind(cluster, last));
        let Some(lacking) = lacking else { return };
        if cluster.world.elapsed_ms() - began > PATIENCE_MS {
            return cluster.violate(&format!("it does not come to rest: {lacking}"));
        }
        if cluster.violation().is_some() {
            return;
        }
        pause(200).await;
    }
}

/// What a writer that died has left open, and hides what comes after it.
fn open(cluster: &Cluster) -> Option<String> {
    let open = cluster.log.open_transactions(&faults::partitions(cluster).collect::<Vec<_>>());
    let open = open.expect("the topics are there");
    open.first().map(|open| format!("a transaction is open in {}, from {} on", open.at, open.first))
}

/// What a node still lacks.
fn behind(node: &Node, last: TxnId) -> Option<String> {
    let running = node.running.lock();
    let Some(running) = &*running else { return Some(format!("{} is dead", node.name)) };
    let standing = running.standing();
    let stable = running.stable();
    let has_all = standing.serves && standing.next > last && stable >= Some(last);
    (!has_all).then(|| format!("{}: {standing:?}, stable {stable:?}, not {last}", node.name))
}

fn captured_behind(cluster: &Cluster, last: TxnId) -> Option<String> {
    let marked = cluster.captured.lock().iter_mut().map(|captured| captured.follow().marked).min();
    let marked = marked.flatten();
    (marked < Some(last)).then(|| format!("changes are captured up to {marked:?}, not {last}"))
}

/// What has to hold once all is at rest.
pub(crate) fn check_end(cluster: &Cluster, acknowledged: &[(RoundId, TxnId)]) {
    for (round, txn) in acknowledged {
        let first = cluster.model.lock().round(*round);
        if first.is_none_or(|first| first > *txn) {
            cluster.violate(&format!("IN-1: round {round:?} was acknowledged, and is not there"));
        }
    }
    for node in &cluster.nodes {
        let running = node.running.lock();
        let Some(running) = &*running else { continue };
        check_documents(cluster, node, running, true);
    }
    check_replicas(cluster);
    for captured in cluster.captured.lock().iter_mut() {
        check_changes(cluster, captured.follow());
    }
}

/// Replicas hold the same, also where something was lost (ST-2).
fn check_replicas(cluster: &Cluster) {
    let mut first: BTreeMap<usize, (&Node, Documents)> = BTreeMap::new();
    for node in &cluster.nodes {
        let running = node.running.lock();
        let Some(running) = &*running else { continue };
        let Some(last) = running.standing().last else { continue };
        let Ok(found) = running.documents(last) else {
            cluster.violate(&format!("ST-4: {} cannot be read at {last}", node.name));
            continue;
        };
        match first.get(&node.partition) {
            Some((other, same)) if *same != found => {
                let (one, two) = (&other.name, &node.name);
                let (same, found) = (told(same), told(&found));
                cluster.violate(&format!("ST-2: {one} has {same}; and {two} has {found}"));
            }
            Some(_) => {}
            None => {
                first.insert(node.partition, (node, found));
            }
        }
    }
}

/// Each change once, in order (CDC-1); no mark too early (CDC-2).
fn check_changes(cluster: &Cluster, captured: &Captured) {
    let slice = captured.slice;
    let model = cluster.model.lock();
    let is_lost = |txn: TxnId| captured.lost.iter().any(|(from, to)| (*from..=*to).contains(&txn));
    if !captured.lost.is_empty() && !cluster.may_copy() {
        cluster.violate(&format!("CDC-1: slice {} says that it lost what was kept", slice.0));
    }
    let wrong = captured
        .changes
        .iter()
        .zip(&captured.values)
        .find(|((txn, id), value)| !model.may_have(id, *txn, value.as_ref()));
    if let Some(((txn, _), value)) = wrong {
        cluster.violate(&format!("CDC-1: slice {}: {txn} is said to make {value:?}", slice.0));
    }
    check_order(cluster, slice, &captured.changes);
    let found: BTreeSet<_> = captured.changes.iter().collect();
    if found.len() < captured.changes.len() {
        cluster.violate(&format!("CDC-1: slice {} has a change twice", slice.0));
    }
    // What was captured is of some era, and what is a change in all of them was captured.
    let (mut any, mut all) = (BTreeSet::new(), None::<BTreeSet<_>>);
    for changes in model.changes(slice) {
        all = Some(all.map_or_else(|| changes.clone(), |all| &all & &changes));
        any.extend(changes);
    }
    let mut missing = all.iter().flatten().filter(|change| !found.contains(*change));
    if let Some((txn, _)) = missing.find(|(txn, _)| !is_lost(*txn)) {
        cluster.violate(&format!("CDC-1: slice {} lacks a change of {txn}", slice.0));
    }
    // What was lost before it was captured is not passed over without a word.
    let all = model.changes(slice).next().unwrap_or_default();
    let mut missing = all.into_iter().filter(|change| !found.contains(change));
    if let Some((txn, _)) =
        missing.find(|change| model.is_lost(slice, change) && !is_lost(change.0))
    {
        cluster.violate(&format!("CDC-1: slice {} does not tell that {txn} is lost", slice.0));
    }
    if let Some((txn, _)) = found.difference(&any).next() {
        cluster.violate(&format!("CDC-1: slice {} has a change of {txn} that was none", slice.0));
    }
    for (after, mark) in &captured.marks {
        let late = captured.changes[*after..].iter().find(|(txn, _)| txn <= mark);
        if let Some((txn, _)) = late {
            cluster.violate(&format!("CDC-2: slice {}: {txn} stands after mark {mark}", slice.0));
        }
    }
}

fn check_order(cluster: &Cluster, slice: Slice, changes: &[(TxnId, Vec<u8>)]) {
    if let Some(pair) = changes.windows(2).find(|pair| pair[0].0 > pair[1].0) {
        let (one, two) = (pair[0].0, pair[1].0);
        cluster.violate(&format!("CDC-1: slice {}: {one} stands before {two}", slice.0));
    }
}

//! One run: a mix, from a seed.

use std::sync::Arc;

use anabranch_runtime::simulation::World;
use anabranch_store_node::simulation::{Bug, plant};

use crate::checks;
use crate::cluster::{BEGAN_MS, Cluster};
use crate::faults;
use crate::mix::Mix;
use crate::readers::ReaderClient;
use crate::story::Story;
use crate::users::{User, check_counters};
use crate::writers::WriterClient;

/// How fast wall time goes: a sample of the log's time, with which history is given up, is taken
/// every ten seconds.
const WALL_SPEED: u64 = 50;

/// What came of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    /// What went wrong first, if anything did.
    pub(crate) violation: Option<String>,
    /// How many rounds were acknowledged and how many reads answered.
    pub(crate) writes: usize,
    pub(crate) reads: u64,
    /// All that happened, as a number.
    pub(crate) fingerprint: u64,
}

/// Runs a mix.
pub(crate) fn run(mix: Mix, seed: u64, bug: Option<Bug>, is_printed: bool) -> Report {
    plant(bug);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime can be built");
    let report = runtime.block_on(async {
        let world = World::new(seed_of(mix, seed), BEGAN_MS, WALL_SPEED);
        let _entered = world.enter();
        run_in(mix, world.clone(), is_printed).await
    });
    plant(None);
    report
}

/// Each mix has seeds of its own: what clients do is drawn from them, too.
fn seed_of(mix: Mix, seed: u64) -> u64 {
    let salted = |seed: u64, byte| (seed ^ u64::from(byte)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mix.name.bytes().fold(seed, salted)
}

async fn run_in(mix: Mix, world: World, is_printed: bool) -> Report {
    let story = Arc::new(Story::new(world.clone(), is_printed));
    let cluster = Cluster::start(mix, world, Arc::clone(&story));
    let watching = tokio::spawn(checks::watch(Arc::clone(&cluster)));
    let until_ms = mix.runs_for_ms;
    let writers: Vec<_> = (0..mix.writers)
        .map(|number| WriterClient::new(Arc::clone(&cluster), number as u64))
        .map(|writer| tokio::spawn(writer.run(until_ms)))
        .collect();
    let readers: Vec<_> = (0..mix.readers)
        .map(|number| ReaderClient::new(Arc::clone(&cluster), number))
        .map(|reader| tokio::spawn(reader.run(until_ms)))
        .collect();
    let users: Vec<_> = (0..mix.users)
        .map(|number| User::new(Arc::clone(&cluster), number))
        .map(|user| tokio::spawn(user.run(until_ms)))
        .collect();
    faults::run(Arc::clone(&cluster), until_ms).await;
    let mut acknowledged = Vec::new();
    for writer in writers {
        acknowledged.extend(writer.await.expect("a writer does not panic").acknowledged);
    }
    let mut reads = 0;
    for reader in readers {
        reads += reader.await.expect("a reader does not panic").answered;
    }
    let mut told = Vec::new();
    for user in users {
        told.push(user.await.expect("a user does not panic").told);
    }
    reads += told.iter().map(|told| told.answered).sum::<u64>();
    // All is well again, and somebody writes once more.
    cluster.nodes.iter().for_each(|node| cluster.start_node(node));
    cluster.start_capture();
    let last = WriterClient::new(Arc::clone(&cluster), mix.writers as u64);
    acknowledged.extend(last.run_once().await.acknowledged);
    checks::rest(&cluster).await;
    if cluster.violation().is_none() {
        checks::check_end(&cluster, &acknowledged);
        check_counters(&cluster, &told);
    }
    watching.abort();
    cluster.stop();
    Report {
        violation: story.violation(),
        writes: acknowledged.len() + told.iter().map(|told| told.written.len()).sum::<usize>(),
        reads,
        fingerprint: story.fingerprint(),
    }
}

//! One run: a mix, from a seed.

use std::sync::Arc;

use anabranch_core::ids::{RoundId, TxnId};
use anabranch_runtime::simulation::World;
use tokio::task::JoinHandle;

use crate::bridges::Pair;
use crate::bugs::Bug;
use crate::checks;
use crate::cluster::{BEGAN_MS, Cluster};
use crate::faults;
use crate::followers::Follower;
use crate::mix::Mix;
use crate::readers::ReaderClient;
use crate::story::Story;
use crate::users::{Told, User, check_told};
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
    /// How many events came of live queries.
    pub(crate) heard: u64,
    /// All that happened, as a number.
    pub(crate) fingerprint: u64,
}

/// Runs a mix.
pub(crate) fn run(mix: Mix, seed: u64, bug: Option<Bug>, is_printed: bool) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime can be built");
    runtime.block_on(async {
        let world = World::new(seed_of(mix, seed), BEGAN_MS, WALL_SPEED);
        if let Some(bug) = bug {
            world.plant(bug.name);
        }
        let _entered = world.enter();
        run_in(mix, world.clone(), is_printed).await
    })
}

/// Each mix has seeds of its own: what clients do is drawn from them, too.
fn seed_of(mix: Mix, seed: u64) -> u64 {
    let salted = |seed: u64, byte| (seed ^ u64::from(byte)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mix.name.bytes().fold(seed, salted)
}

async fn run_in(mix: Mix, world: World, is_printed: bool) -> Report {
    let story = Arc::new(Story::new(world.clone(), is_printed));
    let names: &[&str] = if mix.clusters == 1 { &["c"] } else { &["a", "b"] };
    let start = |name: &&str| Cluster::start(mix, name, world.clone(), Arc::clone(&story));
    let clusters: Vec<_> = names.iter().map(start).collect();
    let pair = <[_; 2]>::try_from(clusters.clone()).ok().map(Pair::link);
    let loads: Vec<_> = clusters.iter().map(|cluster| Load::begin(Arc::clone(cluster))).collect();
    let mut done = Vec::new();
    for load in loads {
        done.push(load.end().await);
    }
    for cluster in &clusters {
        checks::rest(cluster).await;
    }
    if let Some(pair) = &pair {
        pair.rest().await;
    }
    for done in &mut done {
        done.end_following().await;
    }
    for (cluster, done) in clusters.iter().zip(&done) {
        if story.violation().is_none() {
            checks::check_end(cluster, &done.acknowledged);
            check_told(cluster, &done.told);
        }
    }
    if let Some(pair) = pair.filter(|_| story.violation().is_none()) {
        pair.check_end();
    }
    done.iter().for_each(|done| done.watching.abort());
    clusters.iter().for_each(|cluster| cluster.stop());
    Report {
        violation: story.violation(),
        writes: done.iter().map(Done::writes).sum(),
        reads: done.iter().map(Done::reads).sum(),
        heard: done.iter().map(|done| done.heard).sum(),
        fingerprint: story.fingerprint(),
    }
}

/// Clients of a cluster, and what happens to it meanwhile.
struct Load {
    cluster: Arc<Cluster>,
    watching: JoinHandle<()>,
    writers: Vec<JoinHandle<WriterClient>>,
    readers: Vec<JoinHandle<ReaderClient>>,
    users: Vec<JoinHandle<User>>,
    followers: Vec<JoinHandle<Follower>>,
    faults: JoinHandle<()>,
}

/// What clients were told.
struct Done {
    acknowledged: Vec<(RoundId, TxnId)>,
    told: Vec<Told>,
    followers: Vec<Follower>,
    heard: u64,
    read: u64,
    watching: JoinHandle<()>,
}

impl Done {
    fn writes(&self) -> usize {
        self.acknowledged.len() + self.told.iter().map(|told| told.written.len()).sum::<usize>()
    }

    /// Followers come back, and hear how it ended.
    async fn end_following(&mut self) {
        for follower in std::mem::take(&mut self.followers) {
            self.heard += follower.end().await.heard;
        }
    }

    fn reads(&self) -> u64 {
        self.read + self.told.iter().map(|told| told.answered).sum::<u64>()
    }
}

impl Load {
    fn begin(cluster: Arc<Cluster>) -> Self {
        let Mix { writers, readers, users, followers, runs_for_ms: until_ms, .. } = cluster.mix;
        let shared = || Arc::clone(&cluster);
        Load {
            watching: tokio::spawn(checks::watch(shared())),
            writers: (0..writers)
                .map(|number| WriterClient::new(shared(), number as u64))
                .map(|writer| tokio::spawn(writer.run(until_ms)))
                .collect(),
            readers: (0..readers)
                .map(|number| ReaderClient::new(shared(), number))
                .map(|reader| tokio::spawn(reader.run(until_ms)))
                .collect(),
            users: (0..users)
                .map(|number| User::new(shared(), number))
                .map(|user| tokio::spawn(user.run(until_ms)))
                .collect(),
            followers: (0..followers)
                .map(|number| Follower::new(shared(), number))
                .map(|follower| tokio::spawn(follower.run(until_ms)))
                .collect(),
            faults: tokio::spawn(faults::run(shared(), until_ms)),
            cluster,
        }
    }

    /// Waits until it is over and all is well again. Somebody writes once more.
    async fn end(self) -> Done {
        let Load { cluster, watching, writers, readers, users, followers, faults } = self;
        faults.await.expect("faults do not panic");
        let (mut acknowledged, mut told, mut followed, mut read) =
            (Vec::new(), Vec::new(), Vec::new(), 0);
        for writer in writers {
            acknowledged.extend(writer.await.expect("a writer does not panic").acknowledged);
        }
        for reader in readers {
            read += reader.await.expect("a reader does not panic").answered;
        }
        for user in users {
            told.push(user.await.expect("a user does not panic").told);
        }
        for follower in followers {
            followed.push(follower.await.expect("a follower does not panic"));
        }
        cluster.nodes.iter().for_each(|node| cluster.start_node(node));
        cluster.start_capture();
        let last = WriterClient::new(Arc::clone(&cluster), cluster.mix.writers as u64);
        acknowledged.extend(last.run_once().await.acknowledged);
        Done { acknowledged, told, followers: followed, heard: 0, read, watching }
    }
}

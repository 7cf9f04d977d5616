//! Watches a cluster from outside: for how long nobody could read, for how long nothing new became
//! stable, and whether what is stable goes back (ST-3).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anabranch_tests::cluster::Terms;
use anyhow::{Result, bail, ensure};
use serde_json::json;

use crate::nodes::Nodes;
use crate::session::is_answer;
use crate::stage::{COLLECTIONS, Stage, id};

/// How often readers ask, and something is written for what is stable to move on.
const OFTEN: Duration = Duration::from_millis(25);
/// How often store nodes are asked what is stable.
const NOW_AND_THEN: Duration = Duration::from_millis(200);
/// How long a reader waits for one answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// What is shorter is no stretch to speak of.
pub(crate) const SHORT: Duration = Duration::from_millis(250);
/// A read that takes longer is told of at once.
const TOLD: Duration = Duration::from_secs(1);
/// A thread that sleeps for so long wakes up a little later, if the machine lets it.
const NAP: Duration = Duration::from_millis(10);

/// A stretch of time in which something did not happen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stretch {
    pub(crate) from: Duration,
    pub(crate) to: Duration,
}

impl Stretch {
    pub(crate) fn length(self) -> Duration {
        self.to - self.from
    }

    /// How much of it is also in the other one.
    pub(crate) fn shared(self, other: Stretch) -> Duration {
        self.to.min(other.to).saturating_sub(self.from.max(other.from))
    }
}

/// Notes in which stretches of time something did not happen.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    last: Duration,
    stretches: Vec<Stretch>,
}

impl Meter {
    pub(crate) fn new(now: Duration) -> Self {
        Meter { last: now, stretches: Vec::new() }
    }

    /// It happened, now.
    pub(crate) fn happened(&mut self, now: Duration) {
        let stretch = Stretch { from: self.last, to: now.max(self.last) };
        self.last = stretch.to;
        if stretch.length() > SHORT {
            self.stretches.push(stretch);
        }
    }

    /// What is noted once nothing is to happen any more.
    pub(crate) fn finish(mut self, end: Duration) -> Vec<Stretch> {
        self.happened(end);
        self.stretches
    }
}

/// What was seen from outside.
#[derive(Default)]
pub(crate) struct Watched {
    /// By partition when it could not be read.
    pub(crate) unread: Vec<Vec<Stretch>>,
    /// By reader when it saw nothing new.
    pub(crate) unstable: Vec<Vec<Stretch>>,
    /// When this process itself did not run.
    pub(crate) asleep: Vec<Stretch>,
    /// How often each reader was answered.
    pub(crate) answers: u64,
}

/// What a reader saw.
struct Told {
    unread: Vec<Stretch>,
    unstable: Vec<Stretch>,
    answers: u64,
}

/// Threads that watch.
pub(crate) struct Watch {
    newest: Arc<AtomicU64>,
    readers: Vec<JoinHandle<Told>>,
    asleep: JoinHandle<Vec<Stretch>>,
    others: Vec<JoinHandle<()>>,
}

impl Watch {
    /// Reads the document of this number of each partition, and asks the store nodes.
    pub(crate) fn start(stage: &Arc<Stage>, read: &[usize], nodes: &Arc<Nodes>) -> Self {
        let newest = Arc::new(AtomicU64::new(0));
        let reader = |(partition, number): (usize, &usize)| {
            let reader = Reader {
                stage: Arc::clone(stage),
                newest: Arc::clone(&newest),
                document: id(*number),
                server: partition % stage.servers(),
            };
            thread::spawn(move || reader.run())
        };
        let readers = read.iter().enumerate().map(reader).collect();
        let ticking = Arc::clone(stage);
        let (asking, nodes) = (Arc::clone(stage), Arc::clone(nodes));
        let others = vec![
            thread::spawn(move || ask_nodes(&asking, &nodes)),
            thread::spawn(move || tick(&ticking)),
        ];
        let napping = Arc::clone(stage);
        let asleep = thread::spawn(move || nap(&napping));
        Watch { newest, readers, asleep, others }
    }

    /// The newest stable transaction that a reader was told of.
    pub(crate) fn stable(&self) -> u64 {
        self.newest.load(Ordering::Relaxed)
    }

    /// What was seen, once the run is over.
    pub(crate) fn finish(self) -> Result<Watched> {
        let mut watched = Watched::default();
        let panicked = "a thread that watches panicked";
        for reader in self.readers {
            let Ok(Told { unread, unstable, answers }) = reader.join() else { bail!(panicked) };
            watched.unread.push(unread);
            watched.unstable.push(unstable);
            watched.answers += answers;
        }
        for other in self.others {
            ensure!(other.join().is_ok(), panicked);
        }
        let Ok(asleep) = self.asleep.join() else { bail!(panicked) };
        watched.asleep = asleep;
        Ok(watched)
    }
}

/// Reads one document again and again, without a token.
struct Reader {
    stage: Arc<Stage>,
    newest: Arc<AtomicU64>,
    document: String,
    server: usize,
}

impl Reader {
    fn run(mut self) -> Told {
        let mut read = Meter::new(self.stage.now());
        let (mut stable, mut newest, mut answers) = (Meter::new(self.stage.now()), 0, 0);
        let terms = Terms { limit: Some(PATIENCE), ..Terms::default() };
        while !self.stage.is_over() {
            let api = self.stage.api(self.server);
            let asked = self.stage.now();
            let answer = api.try_get_on(COLLECTIONS[0], &self.document, &terms);
            let now = self.stage.now();
            if now - asked > TOLD {
                let (at, server, took) = (asked.as_secs_f64(), self.server, now - asked);
                let answer = answer.as_ref().map(|reply| reply.status);
                println!("{at:>8.2} s: a read by server {server} took {took:?}: {answer:?}");
            }
            match answer {
                Ok(reply) if is_answer(&reply) => {
                    read.happened(now);
                    answers += 1;
                    if reply.txn > Some(newest) {
                        newest = reply.txn.unwrap_or(newest);
                        stable.happened(now);
                        self.newest.fetch_max(newest, Ordering::Relaxed);
                    }
                }
                Ok(_) | Err(_) => self.server = (self.server + 1) % self.stage.servers(),
            }
            thread::sleep(OFTEN);
        }
        let end = self.stage.lasted();
        Told { unread: read.finish(end), unstable: stable.finish(end), answers }
    }
}

/// Writes something again and again without asking a store node for anything: there is always
/// something that can become stable.
fn tick(stage: &Stage) {
    let statement = "INSERT INTO ticks DOCUMENTS (:d) ON ID CONFLICT DO UPDATE";
    let terms = Terms { limit: Some(PATIENCE), ..Terms::default() };
    let (mut server, mut number) = (0, 0_u64);
    while !stage.is_over() {
        number += 1;
        let args = json!({"d": {"_id": "tick", "number": number}});
        let written = stage.api(server).try_execute_on(statement, &args, &terms);
        // Nobody minds whether it was written.
        if !written.is_ok_and(|reply| reply.status == 200) {
            server = (server + 1) % stage.servers();
        }
        thread::sleep(OFTEN);
    }
}

/// Asks the store nodes again and again up to where it is stable: that never goes back, not when
/// they start again either.
fn ask_nodes(stage: &Stage, nodes: &Nodes) {
    let mut last: Vec<_> = nodes.numbers().map(|_| 0).collect();
    stage.until_over(|| {
        for number in nodes.numbers() {
            if let Some(stable) = nodes.stable(number) {
                let last = &mut last[number];
                ensure!(stable >= *last, "ST-3: node {number} said {last}, then {stable}");
                *last = stable;
            }
        }
        thread::sleep(NOW_AND_THEN);
        Ok(())
    });
}

/// Notes when this process did not run, although it wanted to.
fn nap(stage: &Stage) -> Vec<Stretch> {
    let mut meter = Meter::new(stage.now());
    while !stage.is_over() {
        thread::sleep(NAP);
        meter.happened(stage.now());
    }
    meter.finish(stage.lasted())
}

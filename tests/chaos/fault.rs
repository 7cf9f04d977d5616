//! What goes wrong in a run: one thing at one process, now here, now there.
//!
//! A store node is only harmed while the other nodes of its partition are well: they have caught up,
//! the others know it, and what they no longer have of the history is captured. So one replica of
//! each partition always lives. While change data capture is away no store node is made to forget
//! changes, which with the log trimmed may be the last copy.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anabranch_tests::cluster::{Cluster, PATIENCE, Service};
use anabranch_tests::support::{Cut, End, Network, Random, wait_until};
use anyhow::{Context, Result, anyhow};

use crate::nodes::Nodes;
use crate::stage::Stage;
use crate::watch::{Stretch, Watch};
use crate::{INGESTS, PARTITIONS, REPLICAS};

/// How often the run is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// How often a process is asked whether it is well.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// The next fault comes so many milliseconds after the last one at least, and so many more at most.
const PAUSE_MS: (u64, u64) = (1_000, 3_000);
/// How many milliseconds a fault lasts at least, and so many more at most.
const LASTS_MS: (u64, u64) = (500, 5_000);
/// How many faults may be there at once, of which one partition has one at most.
const AT_ONCE: usize = 2;
/// Of so many faults one is of a process that is no store node.
const OTHERS_IN: u64 = 6;
/// Of so many planned faults the first one that is possible comes next.
const PLANNED: usize = 8;

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// `kill -9`, and started again.
    Kill,
    /// `kill -9`, its data deleted, and started again.
    Wipe,
    /// `SIGSTOP`, and `SIGCONT`.
    Pause,
    /// Cut off from the other processes of its cluster.
    Cut(Cut),
    /// Cut off from the log.
    CutLog(Cut),
    /// Cut off from both.
    CutAll,
}

/// What happens to store nodes.
const FAULTS: [Fault; 11] = [
    Fault::Kill,
    Fault::Wipe,
    Fault::Pause,
    Fault::Cut(Cut::Broken),
    Fault::Cut(Cut::Silent),
    Fault::Cut(Cut::Deaf),
    Fault::Cut(Cut::Mute),
    Fault::Cut(Cut::Apart),
    Fault::CutLog(Cut::Broken),
    Fault::CutLog(Cut::Silent),
    Fault::CutAll,
];

impl Fault {
    /// Whether a store node may have to copy afterwards what the log does not have any more: then it
    /// does not know the changes in between.
    fn makes_copy(self) -> bool {
        !matches!(self, Fault::Cut(_))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::Kill => "killed",
            Fault::Wipe => "killed and wiped",
            Fault::Pause => "paused",
            Fault::Cut(Cut::Broken) => "connections broken",
            Fault::Cut(Cut::Silent) => "cut off from nodes and clients",
            Fault::Cut(Cut::Deaf) => "hears nothing",
            Fault::Cut(Cut::Mute) => "is not heard",
            Fault::Cut(Cut::Apart) => "cut off from other nodes, not from clients",
            Fault::CutLog(Cut::Broken) => "connections to the log broken",
            Fault::CutLog(_) => "cut off from the log",
            Fault::CutAll => "cut off from everything",
        })
    }
}

/// Something that went wrong.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Happened {
    pub(crate) fault: Fault,
    pub(crate) victim: Service,
    pub(crate) began: Duration,
    /// When it was over, and when the victim was well again.
    pub(crate) healed: Option<Duration>,
    pub(crate) well: Option<Duration>,
}

impl Happened {
    /// From its beginning until the victim was well again.
    pub(crate) fn stretch(&self) -> Stretch {
        Stretch { from: self.began, to: self.well.unwrap_or(Duration::MAX) }
    }

    /// What it is called in reports.
    pub(crate) fn kind(&self) -> String {
        let victim = match self.victim {
            Service::StoreNode(_) => "store node",
            Service::Ingest(_) => "ingest",
            Service::Cdc => "cdc",
            Service::Bridge => "bridge",
        };
        format!("{victim} {}", self.fault)
    }
}

/// The partition of a store node.
fn partition(service: Service) -> Option<usize> {
    match service {
        Service::StoreNode(number) => Some(number / REPLICAS),
        _ => None,
    }
}

/// Something that is to go wrong.
#[derive(Clone, Copy)]
struct Planned {
    fault: Fault,
    victim: Service,
    lasts: Duration,
    /// How long nothing else goes wrong then.
    pause: Duration,
}

impl Planned {
    fn draw(random: &mut Random) -> Self {
        let (victim, fault) = if random.below(OTHERS_IN) == 0 {
            let ingest = Service::Ingest(random.index(INGESTS));
            let victim = if random.below(3) == 0 { Service::Cdc } else { ingest };
            (victim, Fault::Kill)
        } else {
            let number = random.index(PARTITIONS * REPLICAS);
            (Service::StoreNode(number), *random.one_of(&FAULTS))
        };
        let lasts = Duration::from_millis(LASTS_MS.0 + random.below(LASTS_MS.1));
        let pause = Duration::from_millis(PAUSE_MS.0 + random.below(PAUSE_MS.1));
        Planned { fault, victim, lasts, pause }
    }

    /// Whether another fault is in the way.
    fn is_hindered_by(&self, other: &Happened) -> bool {
        let is_server = |service| matches!(service, Service::Ingest(_));
        let forgets = |victim, fault: Fault| partition(victim).is_some() && fault.makes_copy();
        let (victim, fault) = (self.victim, self.fault);
        other.victim == victim
            || (is_server(other.victim) && is_server(victim))
            || (partition(other.victim).is_some() && partition(other.victim) == partition(victim))
            || (other.victim == Service::Cdc && forgets(victim, fault))
            || (victim == Service::Cdc && forgets(other.victim, other.fault))
    }
}

/// A fault that is there, or whose victim is not well yet.
struct Active {
    happened: Happened,
    heals_at: Duration,
    getting_well: Option<JoinHandle<Result<Duration>>>,
}

/// What things go wrong with.
pub(crate) struct Chaos<'a> {
    pub(crate) cluster: &'a mut Cluster,
    pub(crate) network: &'a Network,
    pub(crate) nodes: &'a Arc<Nodes>,
    pub(crate) stage: &'a Arc<Stage>,
    pub(crate) watch: &'a Watch,
    /// What ended by itself.
    pub(crate) ended: &'a mut Vec<String>,
}

impl Chaos<'_> {
    /// Lets things go wrong for so long, and then waits until all are well; what went wrong.
    pub(crate) fn run(mut self, lasts: Duration) -> Result<Vec<Happened>> {
        let mut random = Random::new(self.stage.seed);
        let (mut planned, mut active) = (VecDeque::new(), Vec::new());
        let (mut happened, mut next_at) = (Vec::new(), Duration::ZERO);
        let end = self.stage.now() + lasts;
        while self.stage.now() < end || !active.is_empty() {
            self.stage.check()?;
            for one in self.cluster.revive()? {
                println!("ENDED BY ITSELF, started again: {one}");
                self.ended.push(one);
            }
            for active in &mut active {
                self.heal(active, end)?;
            }
            happened.extend(who_is_well(&mut active)?);
            let now = self.stage.now();
            if now < end && now >= next_at && active.len() < AT_ONCE {
                planned.resize_with(PLANNED, || Planned::draw(&mut random));
                if let Some(next) = possible(&mut planned, &active) {
                    next_at = now + next.pause;
                    active.push(self.let_go_wrong(&next)?);
                }
            }
            thread::sleep(LOOK);
        }
        happened.sort_by_key(|happened: &Happened| happened.began);
        Ok(happened)
    }

    fn let_go_wrong(&mut self, planned: &Planned) -> Result<Active> {
        let Planned { fault, victim, lasts, .. } = *planned;
        let began = self.stage.now();
        println!("{:>8.2} s: {victim:?} {fault}", began.as_secs_f64());
        match fault {
            Fault::Kill => self.cluster.kill(victim)?,
            Fault::Wipe => {
                self.cluster.kill(victim)?;
                self.cluster.wipe(victim)?;
            }
            Fault::Pause => self.cluster.signal(victim, "STOP")?,
            Fault::Cut(cut) => self.cut(victim, Some(cut), None),
            Fault::CutLog(cut) => self.cut(victim, None, Some(cut)),
            Fault::CutAll => self.cut(victim, Some(Cut::Silent), Some(Cut::Silent)),
        }
        if let Service::Ingest(number) = victim {
            self.stage.died(number);
        }
        let happened = Happened { fault, victim, began, healed: None, well: None };
        Ok(Active { happened, heals_at: began + lasts, getting_well: None })
    }

    /// Cuts a store node off from the others and the log, or ends that.
    fn cut(&self, victim: Service, others: Option<Cut>, log: Option<Cut>) {
        let Service::StoreNode(number) = victim else { return };
        for (end, cut) in [(End::Node(number), others), (End::LogOf(number), log)] {
            match cut {
                Some(cut) => self.network.cut(end, cut),
                None => self.network.heal(end),
            }
        }
    }

    /// Ends a fault whose time is over.
    fn heal(&mut self, active: &mut Active, end: Duration) -> Result<()> {
        let now = self.stage.now();
        let Happened { fault, victim, healed, .. } = active.happened;
        if healed.is_some() || now < active.heals_at.min(end) {
            return Ok(());
        }
        println!("{:>8.2} s: {victim:?} no longer {fault}", now.as_secs_f64());
        match fault {
            Fault::Kill | Fault::Wipe => self.cluster.start(victim)?,
            Fault::Pause => self.cluster.signal(victim, "CONT")?,
            Fault::Cut(_) | Fault::CutLog(_) | Fault::CutAll => self.cut(victim, None, None),
        }
        active.happened.healed = Some(now);
        active.getting_well = Some(self.getting_well(victim));
        Ok(())
    }

    /// Waits beside until a victim does its work again, and the others of its partition know it.
    fn getting_well(&self, victim: Service) -> JoinHandle<Result<Duration>> {
        let (nodes, stage) = (Arc::clone(self.nodes), Arc::clone(self.stage));
        let (api, capture) = (self.cluster.api_of(victim), self.cluster.api_of(Service::Cdc));
        let stable = self.watch.stable();
        thread::spawn(move || {
            let is_captured =
                |txn| capture.status().is_ok_and(|status| captured(&status) >= Some(txn));
            let is_known = || match victim {
                Service::StoreNode(number) => {
                    let first = number / REPLICAS * REPLICAS;
                    let mut others = (first..first + REPLICAS).filter(|one| *one != number);
                    others.all(|other| nodes.knows(other, number, stable))
                        && nodes.history_from(number).is_some_and(is_captured)
                }
                Service::Cdc => is_captured(stable + 1),
                _ => true,
            };
            wait_until(&format!("{victim:?} is well again"), PATIENCE, || {
                let is_well = is_known() && api.is_admin_ready();
                if !is_well {
                    thread::sleep(ASK_AGAIN);
                }
                Ok(is_well)
            })?;
            Ok(stage.now())
        })
    }
}

/// Every change below this transaction is captured, as the status of a cluster says.
fn captured(status: &serde_json::Value) -> Option<u64> {
    let parts = status["parts"].as_array()?;
    parts.iter().find(|part| part["part"] == "cdc")?["next"].as_u64()
}

/// The next one of what is planned that is possible.
fn possible(planned: &mut VecDeque<Planned>, active: &[Active]) -> Option<Planned> {
    let is_possible =
        |one: &Planned| !active.iter().any(|active| one.is_hindered_by(&active.happened));
    let place = planned.iter().position(is_possible)?;
    planned.remove(place)
}

/// Takes out those whose victims are well again.
fn who_is_well(active: &mut Vec<Active>) -> Result<Vec<Happened>> {
    let mut all_well = Vec::new();
    for mut one in std::mem::take(active) {
        match one.getting_well.take() {
            Some(waiting) if waiting.is_finished() => {
                let Happened { victim, fault, .. } = one.happened;
                let well = waiting.join().map_err(|_| anyhow!("a thread panicked"))?;
                let well = well.with_context(|| format!("{victim:?} was {fault}"))?;
                println!("{:>8.2} s: {victim:?} is well again", well.as_secs_f64());
                all_well.push(Happened { well: Some(well), ..one.happened });
            }
            getting_well => active.push(Active { getting_well, ..one }),
        }
    }
    Ok(all_well)
}

/// How often each happened, and how long its victims took to be well again at most.
pub(crate) fn count(all: &[Happened]) -> BTreeMap<String, (usize, Duration)> {
    let mut counts = BTreeMap::new();
    for happened in all {
        let (count, longest) = counts.entry(happened.kind()).or_insert((0, Duration::ZERO));
        *count += 1;
        let took = happened.well.zip(happened.healed);
        *longest = (*longest).max(took.map_or(Duration::ZERO, |(well, healed)| well - healed));
    }
    counts
}

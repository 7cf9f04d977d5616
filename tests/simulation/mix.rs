//! What is done to a cluster: workloads and faults, as data that can be combined.

/// What may happen to a cluster besides its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A store node dies, and is started again a while later.
    Crash,
    /// The same with an empty disk, if another replica has all of it.
    Wipe,
    /// All store nodes die at once.
    CrashAll,
    /// A store node applies nothing for a while, and nothing gets to it or from it.
    Pause,
    /// A store node is cut off from all others and from clients.
    Cut,
    /// Nothing gets from one store node to another one.
    CutOneWay,
    /// All messages take long, and come in another order.
    SlowNetwork,
    /// A store node does not reach the log.
    CutFromLog,
    /// A store node takes long for all that it applies.
    SlowDisk,
    /// The log gives up what no node needs any more, as far as some replica of each partition goes.
    Trim,
    /// The log gives up all that it has, whoever needs it.
    TrimAll,
    /// A store node drops the versions that it may drop.
    Compact,
    /// Whoever writes dies with its transaction open, and is started again a while later.
    CrashWriter,
    /// An ingest server dies, and is started again a while later.
    CrashServer,
    /// An ingest server does not reach the log, or gets no answers to some of its commits.
    CutServer,
    /// A bridge dies, and is started again a while later.
    CrashBridge,
    /// Nothing gets from one bridge to the other one.
    CutLink,
    /// Change data capture dies, and is started again a while later.
    CrashCapture,
    /// A store node leaves its partition and joins it again later, without its disk; or the quorum
    /// changes.
    Reconfigure,
    /// Wall time jumps, back or forth.
    Jump,
}

/// A workload and faults.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mix {
    /// Its name.
    pub(crate) name: &'static str,
    /// How many clusters there are, linked by bridges.
    pub(crate) clusters: usize,
    /// How many partitions and replicas of each there are at most.
    pub(crate) partitions: u64,
    pub(crate) replicas: u64,
    /// How many replicas of each partition there are at least.
    pub(crate) replicas_at_least: u64,
    /// How many clients write, and how many read.
    pub(crate) writers: usize,
    pub(crate) readers: usize,
    /// How many ingest servers there are, and how many use them.
    pub(crate) servers: usize,
    pub(crate) users: usize,
    /// How many follow a live query of theirs.
    pub(crate) followers: usize,
    /// Whether nothing happens for which a read may fail.
    pub(crate) reads_succeed: bool,
    /// For how long, in milliseconds.
    pub(crate) runs_for_ms: u64,
    /// How far back reads can name their timestamp, in milliseconds.
    pub(crate) history_ms: u64,
    /// How often something happens, in milliseconds; and what, each as often as it stands here.
    pub(crate) fault_every_ms: u64,
    pub(crate) faults: &'static [Fault],
}

use Fault::*;

const MIX: Mix = Mix {
    name: "calm",
    clusters: 1,
    partitions: 2,
    replicas: 3,
    replicas_at_least: 1,
    writers: 3,
    readers: 2,
    servers: 0,
    users: 0,
    followers: 0,
    reads_succeed: false,
    runs_for_ms: 1_400,
    history_ms: 20_000,
    fault_every_ms: 180,
    faults: &[],
};

/// All mixes.
pub(crate) const MIXES: [Mix; 10] = [
    // Every read has to succeed here.
    Mix {
        faults: &[Compact, Compact, SlowDisk, SlowNetwork],
        reads_succeed: true,
        history_ms: 1,
        fault_every_ms: 100,
        ..MIX
    },
    Mix {
        name: "crashes",
        faults: &[Crash, Crash, CrashAll, SlowDisk, CrashWriter, Compact],
        ..MIX
    },
    Mix {
        name: "network",
        replicas_at_least: 2,
        faults: &[Cut, CutOneWay, CutOneWay, SlowNetwork, CutFromLog, Pause, Compact],
        ..MIX
    },
    Mix {
        name: "backfill",
        replicas_at_least: 2,
        faults: &[Wipe, Wipe, Crash, Trim, Trim, CutFromLog, Compact, SlowDisk],
        ..MIX
    },
    Mix {
        name: "capture",
        faults: &[CrashCapture, Wipe, Crash, Trim, Cut, SlowNetwork, Compact],
        ..MIX
    },
    Mix {
        name: "ingest",
        writers: 1,
        readers: 0,
        servers: 2,
        users: 3,
        followers: 3,
        faults: &[
            CrashServer,
            CrashServer,
            CutServer,
            CutServer,
            Crash,
            Cut,
            SlowNetwork,
            SlowDisk,
        ],
        ..MIX
    },
    Mix {
        name: "bridge",
        clusters: 2,
        runs_for_ms: 1_000,
        fault_every_ms: 120,
        partitions: 1,
        replicas: 2,
        writers: 2,
        readers: 0,
        faults: &[
            CrashBridge,
            CrashBridge,
            CutLink,
            CutLink,
            SlowNetwork,
            Crash,
            CrashCapture,
            Trim,
        ],
        ..MIX
    },
    Mix {
        name: "members",
        replicas_at_least: 2,
        faults: &[
            Reconfigure,
            Reconfigure,
            Reconfigure,
            Crash,
            Wipe,
            Trim,
            Cut,
            CutFromLog,
            SlowNetwork,
            SlowDisk,
        ],
        ..MIX
    },
    Mix { name: "losses", faults: &[TrimAll, Wipe, Crash, CutFromLog, Pause, Reconfigure], ..MIX },
    Mix {
        name: "everything",
        replicas_at_least: 2,
        writers: 2,
        servers: 2,
        users: 2,
        followers: 2,
        fault_every_ms: 150,
        faults: &[
            CrashServer,
            CutServer,
            Crash,
            Wipe,
            CrashAll,
            Pause,
            Cut,
            CutOneWay,
            SlowNetwork,
            CutFromLog,
            SlowDisk,
            Trim,
            Compact,
            CrashWriter,
            CrashCapture,
            Reconfigure,
            Jump,
        ],
        ..MIX
    },
];

/// The mix of that name.
pub(crate) fn mix(name: &str) -> Mix {
    let found = MIXES.iter().find(|mix| mix.name == name);
    *found.unwrap_or_else(|| panic!("there is no mix '{name}'"))
}

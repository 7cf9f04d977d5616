//! `kill -9` (IN-1): what was acknowledged is there, nothing is torn, and besides what was
//! acknowledged there is at most what was on its way at a kill.
//!
//! The writer is a child process: the test binary runs itself again with only this test, which
//! finds in its environment what to write, and says on its standard output what it is about to do
//! and what it has done. Its parent kills it after a random one of these lines, which is a random
//! point of some transaction, opens the log and looks.
//!
//! [`WriteLoop`] is also for tests that kill the log's server under a writer that lives on.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::sync::Arc;

use anabranch_core::ErrorKind;
use bytes::Bytes;

use super::support::{Random, must, read_to_end, text, unique, wait};
use super::{Harness, PATIENCE};
use crate::error::Error;
use crate::log::{
    Cleanup, Journal, NewRecord, ReadFrom, TopicPartition, TopicSpec, TransactionalId, Writer,
};

const CYCLES: usize = 8;
const PARTITIONS: u16 = 4;
/// A child is killed after one of this many of its first lines, three to a transaction.
const LINES: u64 = 120;
/// Marks a line for the parent; the test harness prints others.
const MARK: &str = "@event ";
/// Ends such a line, so that one which the kill cut short is not taken for another.
const END: char = '.';
const ENV_ADDRESS: &str = "ANABRANCH_TEST_CONFORMANCE_ADDRESS";
const ENV_NAME: &str = "ANABRANCH_TEST_CONFORMANCE_NAME";
const ENV_NEXT: &str = "ANABRANCH_TEST_CONFORMANCE_NEXT";
/// Repeats the random choices of an earlier run.
const ENV_SEED: &str = "ANABRANCH_TEST_SEED";

/// What a writer says about transaction n.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It begins.
    Began(u64),
    /// Its records are in the log.
    Flushed(u64),
    /// It is committed.
    Committed(u64),
    /// It may have been committed.
    Unknown(u64),
    /// It was not committed.
    Failed(u64),
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Began(n) => write!(f, "began {n}"),
            Event::Flushed(n) => write!(f, "flushed {n}"),
            Event::Committed(n) => write!(f, "committed {n}"),
            Event::Unknown(n) => write!(f, "unknown {n}"),
            Event::Failed(n) => write!(f, "failed {n}"),
        }
    }
}

impl FromStr for Event {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let wrong = || format!("'{line}' is not an event");
        let (what, number) = line.split_once(' ').ok_or_else(wrong)?;
        let number = number.trim().parse().map_err(|_| wrong())?;
        match what {
            "began" => Ok(Event::Began(number)),
            "flushed" => Ok(Event::Flushed(number)),
            "committed" => Ok(Event::Committed(number)),
            "unknown" => Ok(Event::Unknown(number)),
            "failed" => Ok(Event::Failed(number)),
            _ => Err(wrong()),
        }
    }
}

/// What has to be, and what must not be, in a log that was written through crashes.
#[derive(Debug)]
pub struct CrashLog {
    name: String,
    committed: BTreeSet<u64>,
    failed: BTreeSet<u64>,
    open: BTreeSet<u64>,
}

impl CrashLog {
    /// Makes a topic for it.
    pub fn create(journal: &dyn Journal) -> Self {
        let name = unique("crash");
        let spec = TopicSpec {
            name: name.as_str().into(),
            partitions: PARTITIONS,
            cleanup: Cleanup::Delete { retention_ms: None },
            max_record_bytes: 64 * 1024,
        };
        must(journal.ensure_topics(&[spec]), "make a topic");
        let (committed, failed, open) = Default::default();
        CrashLog { name, committed, failed, open }
    }

    /// A loop that goes on writing this log.
    pub fn write_loop(&self, journal: Arc<dyn Journal>) -> WriteLoop {
        WriteLoop { journal, name: self.name.clone(), next: self.next() }
    }

    /// Takes note of what a writer said.
    pub fn note(&mut self, event: Event) {
        match event {
            Event::Began(number) => self.open.insert(number),
            Event::Flushed(_) | Event::Unknown(_) => false,
            Event::Committed(number) => self.open.remove(&number) && self.committed.insert(number),
            Event::Failed(number) => self.open.remove(&number) && self.failed.insert(number),
        };
    }

    /// How many transactions were acknowledged.
    pub fn committed(&self) -> usize {
        self.committed.len()
    }

    fn next(&self) -> u64 {
        let last = |numbers: &BTreeSet<u64>| numbers.last().copied();
        last(&self.committed)
            .max(last(&self.failed))
            .max(last(&self.open))
            .map_or(0, |last| last + 1)
    }

    /// Fences the writer and looks at all there is in the log.
    pub fn check(&self, journal: &dyn Journal) {
        let id = TransactionalId::from(self.name.as_str());
        let mut fence = None;
        wait("a writer can be made after a crash", || {
            fence = journal.writer(&id).ok();
            fence.is_some()
        });
        let partitions: Vec<_> = (0..PARTITIONS).map(|n| self.partition(n)).collect();
        let from: Vec<_> = partitions.iter().map(|at| (at.clone(), ReadFrom::Start)).collect();
        let mut reader = must(journal.reader(&from), "make a reader after a crash");
        let mut seen: BTreeMap<u64, Vec<Part>> = BTreeMap::new();
        let mut last: BTreeMap<TopicPartition, u64> = BTreeMap::new();
        for record in read_to_end(journal, reader.as_mut(), &partitions) {
            let part: Part = text(&record).parse().expect("a record is as it was written");
            seen.entry(part.transaction).or_default().push(part);
            let before = last.insert(record.at.clone(), part.transaction);
            assert!(before <= Some(part.transaction), "{} is out of order: {part:?}", record.at);
        }
        self.compare(&seen);
    }

    fn partition(&self, number: u16) -> TopicPartition {
        TopicPartition::new(self.name.as_str(), number)
    }

    fn compare(&self, seen: &BTreeMap<u64, Vec<Part>>) {
        for (number, parts) in seen {
            let indexes: BTreeSet<_> = parts.iter().map(|part| part.index).collect();
            let whole = parts.iter().all(|part| part.count as usize == parts.len());
            assert!(
                whole && indexes.len() == parts.len(),
                "transaction {number} is torn or doubled: {parts:?}"
            );
            assert!(
                !self.failed.contains(number),
                "transaction {number} is there although it was said not to have happened"
            );
            assert!(
                self.committed.contains(number) || self.open.contains(number),
                "transaction {number} is there although nobody began it"
            );
        }
        let lost: Vec<_> = self.committed.iter().filter(|n| !seen.contains_key(n)).collect();
        assert!(lost.is_empty(), "acknowledged transactions are lost: {lost:?}");
    }
}

/// The content of one record: it is the index-th of so many of its transaction.
#[derive(Clone, Copy, Debug)]
struct Part {
    transaction: u64,
    index: u32,
    count: u32,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.transaction, self.index, self.count)
    }
}

impl FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |_| format!("'{text}' is not a part");
        let mut numbers = text.split('/');
        let mut next = || numbers.next().unwrap_or_default();
        Ok(Part {
            transaction: next().parse().map_err(wrong)?,
            index: next().parse().map_err(wrong)?,
            count: next().parse().map_err(wrong)?,
        })
    }
}

/// Writes numbered transactions one after the other and says what it does.
pub struct WriteLoop {
    journal: Arc<dyn Journal>,
    name: String,
    next: u64,
}

impl WriteLoop {
    /// Writes until `tell` returns false. After an error it goes on with a new writer and the next
    /// number, as soon as the log can be reached.
    pub fn run(mut self, mut tell: impl FnMut(Event) -> bool) {
        let mut writer = None;
        loop {
            let number = self.next;
            let open = match writer.take() {
                Some(open) => open,
                None => self.open(),
            };
            self.next += 1;
            if !tell(Event::Began(number)) {
                return;
            }
            let event = match self.write(open, number, &mut tell) {
                Ok(kept) => {
                    writer = kept;
                    Event::Committed(number)
                }
                Err(error) if error.kind() == ErrorKind::Unknown => Event::Unknown(number),
                Err(_) => Event::Failed(number),
            };
            if !tell(event) {
                return;
            }
        }
    }

    fn open(&self) -> Box<dyn Writer> {
        let id = TransactionalId::from(self.name.as_str());
        let mut writer = None;
        wait("a writer can be made", || {
            writer = self.journal.writer(&id).ok();
            writer.is_some()
        });
        writer.expect("the loop ends with a writer")
    }

    /// One transaction over some of the partitions. Gives the writer back if it is still good.
    fn write(
        &self,
        mut writer: Box<dyn Writer>,
        number: u64,
        tell: &mut impl FnMut(Event) -> bool,
    ) -> Result<Option<Box<dyn Writer>>, Error> {
        let mut random = Random::new(number);
        let count = u32::try_from(1 + random.below(12)).unwrap_or(1);
        writer.begin()?;
        for index in 0..count {
            let partition = u16::try_from(random.below(PARTITIONS.into())).unwrap_or_default();
            let part = Part { transaction: number, index, count };
            writer.append(NewRecord {
                at: TopicPartition::new(self.name.as_str(), partition),
                key: Bytes::from(number.to_string()),
                value: Some(Bytes::from(part.to_string())),
            })?;
        }
        writer.flush()?;
        tell(Event::Flushed(number));
        writer.commit()?;
        Ok((!writer.is_spent()).then_some(writer))
    }
}

/// Several lives of a writer process, each ended by `kill -9`, over one log.
///
/// `test_path` is the path of the calling test with its crate, by which the child finds it.
pub fn kill_at_random_points<H: Harness>(test_path: &str) {
    if let (Ok(address), Ok(name)) = (std::env::var(ENV_ADDRESS), std::env::var(ENV_NAME)) {
        let next = std::env::var(ENV_NEXT).ok().and_then(|next| next.parse().ok()).unwrap_or(0);
        let journal = H::attach(&address).open();
        let say = |event| {
            println!("{MARK}{event}{END}");
            true
        };
        return WriteLoop { journal, name, next }.run(say);
    }
    let seed = std::env::var(ENV_SEED).ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(uuid::Uuid::new_v4().as_fields().0));
    println!("repeat the random choices with {ENV_SEED}={seed}");
    let mut random = Random::new(seed);
    let harness = H::create();
    let mut log = CrashLog::create(harness.open().as_ref());
    for cycle in 0..CYCLES {
        let lines = 1 + random.below(LINES);
        run_child(&mut log, test_path, &harness.address(), lines);
        println!("cycle {cycle}: killed after line {lines}, {} committed", log.committed());
        log.check(harness.open().as_ref());
    }
    assert!(log.committed() > 0, "no child committed anything within {PATIENCE:?}");
}

/// Runs a writer process and kills it after so many lines.
fn run_child(log: &mut CrashLog, test_path: &str, address: &str, lines: u64) {
    let test = test_path.split_once("::").map_or(test_path, |(_, test)| test);
    let executable = std::env::current_exe().expect("a test knows its executable");
    let mut child = Command::new(executable)
        .args([test, "--exact", "--nocapture"])
        .env(ENV_ADDRESS, address)
        .env(ENV_NAME, &log.name)
        .env(ENV_NEXT, log.next().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a test can start its executable");
    let stdout = child.stdout.take().expect("standard output is piped");
    let mut told = 0;
    for line in BufReader::new(stdout).lines() {
        let line = line.expect("a child writes text");
        let Some((_, event)) = line.split_once(MARK) else { continue };
        let Some(event) = event.strip_suffix(END) else { continue };
        let event = event.parse().unwrap_or_else(|error| panic!("{error}"));
        log.note(event);
        told += 1;
        if told == lines {
            child.kill().expect("a parent may kill its child");
        }
    }
    child.wait().expect("a parent may wait for its child");
    assert!(told >= lines, "the writer process ended by itself after {told} of {lines} lines");
}

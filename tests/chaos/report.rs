//! What a run is reported as.

use std::fmt::Write as _;
use std::process::Command;
use std::time::Duration;

use anabranch_tests::history::{Action, History, Violation};

use crate::fault::{Happened, count};
use crate::trim::Trimmed;
use crate::watch::{Stretch, Watched};

/// How many of the longest stretches are listed.
const LISTED: usize = 5;

/// Everything about a run.
pub(crate) struct Report<'a> {
    pub(crate) seed: u64,
    pub(crate) lasted: Duration,
    pub(crate) happened: &'a [Happened],
    pub(crate) watched: &'a Watched,
    pub(crate) history: &'a History,
    pub(crate) trimmed: Trimmed,
    pub(crate) refused: u64,
    pub(crate) waits: &'a [Stretch],
    pub(crate) events: usize,
    pub(crate) violations: &'a [Violation],
    pub(crate) ended: &'a [String],
    pub(crate) bound: Duration,
}

impl Report<'_> {
    /// The longest time in which a partition could not be read, without the time in which this
    /// process could not have asked.
    pub(crate) fn longest_unread(&self) -> Duration {
        self.longest(self.watched.unread.iter().flatten())
    }

    /// The longest time until a session's read was answered, by whichever server.
    pub(crate) fn longest_wait(&self) -> Duration {
        self.longest(self.waits.iter())
    }

    /// The longest time in which a reader saw nothing new, although there was something.
    pub(crate) fn longest_unstable(&self) -> Duration {
        self.longest(self.watched.unstable.iter().flatten())
    }

    fn longest<'b>(&self, all: impl Iterator<Item = &'b Stretch>) -> Duration {
        all.map(|stretch| self.awake(*stretch)).max().unwrap_or_default()
    }

    /// In how much time this process did not run although it wanted to.
    fn asleep(&self) -> Duration {
        self.watched.asleep.iter().map(|asleep| asleep.length()).sum()
    }

    /// How long a stretch is, without the time in which this process did not run.
    fn awake(&self, stretch: Stretch) -> Duration {
        let asleep = self.watched.asleep.iter().map(|asleep| asleep.shared(stretch)).sum();
        stretch.length().saturating_sub(asleep)
    }

    /// How long the slowest operation of a kind took.
    fn slowest(&self, kind: impl Fn(&Action) -> bool) -> Duration {
        let all = self.history.operations().map(|(_, operation)| operation);
        let took = all
            .filter(|operation| kind(&operation.action))
            .map(|operation| operation.ended.0 - operation.began.0);
        Duration::from_nanos(took.max().unwrap_or(0))
    }

    /// What was there during a stretch.
    fn meanwhile(&self, stretch: Stretch) -> String {
        let there =
            self.happened.iter().filter(|happened| !happened.stretch().shared(stretch).is_zero());
        let told = there.map(|happened| format!("{:?} {}", happened.victim, happened.fault));
        let told: Vec<_> = told.collect();
        if told.is_empty() { "nothing".to_owned() } else { told.join(", ") }
    }

    /// As a page for people.
    pub(crate) fn page(&self) -> String {
        let mut page = String::new();
        // Writing to a string does not fail.
        let _ = self.write(&mut page);
        page
    }

    fn write(&self, page: &mut String) -> std::fmt::Result {
        let lasted = self.lasted.as_secs();
        writeln!(page, "# Chaos\n")?;
        writeln!(
            page,
            "Six store nodes, three partitions of two replicas each, two ingest servers and change \
             data\ncapture, on Kafka. Clients write and read while processes are killed, wiped, \
             paused and cut off,\nand the log is trimmed to a few seconds. Written by `make chaos`; `tests/chaos/` says what is done and \
             checked.\n"
        )?;
        writeln!(page, "| | |\n|---|---|")?;
        let mut row = |what: &str, value: String| writeln!(page, "| {what} | {value} |");
        row("date", output("date", &["-u", "+%Y-%m-%d %H:%M UTC"]))?;
        row("commit", output("git", &["rev-parse", "--short", "HEAD"]))?;
        row("lasted", format!("{} min {} s", lasted / 60, lasted % 60))?;
        row("seed", self.seed.to_string())?;
        row("rounds acknowledged", self.history.writes().count().to_string())?;
        row("longest time until one was", seconds(self.slowest(is_write)))?;
        row("reads of sessions", self.history.reads().count().to_string())?;
        row(
            "longest until one was answered, asked again if need be",
            seconds(self.longest_wait()),
        )?;
        row("reads of probes, without a token", self.watched.answers.to_string())?;
        let Trimmed { times, up_to } = self.trimmed;
        row("the log was trimmed", format!("{times} times, in the end up to transaction {up_to}"))?;
        row("requests refused, and made again or given up", self.refused.to_string())?;
        row("change events, each once and in order", self.events.to_string())?;
        row("longest time without reads of a partition", seconds(self.longest_unread()))?;
        row("longest time in which a reader saw nothing new", seconds(self.longest_unstable()))?;
        row("bound of these three", seconds(self.bound))?;
        row("subtracted from them: this process itself did not run for", seconds(self.asleep()))?;
        row("violations", self.violations.len().to_string())?;
        row("processes that ended by themselves", self.ended.len().to_string())?;

        writeln!(page, "\n| fault | times | until well again, at most |\n|---|---|---|")?;
        for (kind, (times, longest)) in count(self.happened) {
            writeln!(page, "| {kind} | {times} | {} |", seconds(longest))?;
        }
        for (partition, unread) in self.watched.unread.iter().enumerate() {
            self.stretches(page, &format!("Partition {partition} was not read"), unread)?;
        }
        for (partition, unstable) in self.watched.unstable.iter().enumerate() {
            let title = format!("Who reads partition {partition} saw nothing new");
            self.stretches(page, &title, unstable)?;
        }
        self.stretches(page, "A session waited for a read", self.waits)?;
        for violation in self.violations.iter().take(50) {
            writeln!(page, "\n{violation}")?;
        }
        Ok(())
    }

    /// The longest stretches, and what was there meanwhile.
    fn stretches(&self, page: &mut String, title: &str, all: &[Stretch]) -> std::fmt::Result {
        let mut all = all.to_vec();
        all.sort_by_key(|stretch| std::cmp::Reverse(self.awake(*stretch)));
        writeln!(page, "\n{title} for a quarter of a second and more {} times:\n", all.len())?;
        for stretch in all.into_iter().take(LISTED) {
            let (at, long) = (stretch.from.as_secs_f64(), seconds(self.awake(stretch)));
            writeln!(page, "* {long} at {at:.1} s: {}", self.meanwhile(stretch))?;
        }
        Ok(())
    }
}

fn is_write(action: &Action) -> bool {
    matches!(action, Action::Write(_))
}

fn seconds(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.ok().filter(|text| !text.is_empty()).unwrap_or_else(|| "unknown".to_owned())
}

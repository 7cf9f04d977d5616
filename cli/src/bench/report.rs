//! How measurements are summed up and shown.

use std::time::Duration;

use anyhow::{Context, Result};
use hdrhistogram::Histogram;

use crate::output::Table;

/// One measured thing.
#[derive(Clone, Debug)]
pub(super) struct Measurement {
    pub(super) what: String,
    pub(super) documents: u64,
    pub(super) elapsed: Duration,
    /// Of each request or transaction, in microseconds.
    pub(super) latencies: Histogram<u64>,
    /// Share of the machine's CPU time that its host gave to others meanwhile.
    pub(super) stolen: f64,
}

impl Measurement {
    /// Documents per second.
    pub(super) fn rate(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "counts of documents are far below 2^52")]
        let documents = self.documents as f64;
        documents / self.elapsed.as_secs_f64().max(f64::EPSILON)
    }

    /// The latency that this share of all did not exceed.
    pub(super) fn quantile(&self, quantile: f64) -> Duration {
        Duration::from_micros(self.latencies.value_at_quantile(quantile))
    }
}

/// More than anything takes, in microseconds.
const TEN_MINUTES: u64 = 600_000_000;

/// An empty histogram of microseconds.
pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, TEN_MINUTES, 3).expect("these are bounds a histogram can have")
}

/// Of these latencies.
pub(super) fn histogram_of(latencies: &[Duration]) -> Histogram<u64> {
    let mut histogram = histogram();
    for latency in latencies {
        histogram.saturating_record(micros(*latency));
    }
    histogram
}

pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// The table of some measurements.
pub(super) fn table(measurements: &[Measurement]) -> Table {
    let mut table =
        Table::new(&["", "documents", "documents/s", "p50 ms", "p99 ms", "p99.9 ms", "stolen CPU"]);
    for measurement in measurements {
        // Of fewer it would be the slowest one, by another name.
        let ms = |quantile: f64, at_least: u64| {
            let enough = measurement.latencies.len() >= at_least;
            if enough { millis(measurement.quantile(quantile)) } else { "-".to_owned() }
        };
        let (p50, p99, p999) = (ms(0.5, 5), ms(0.99, 200), ms(0.999, 2_000));
        table.row([
            measurement.what.clone(),
            measurement.documents.to_string(),
            format!("{:.0}", measurement.rate()),
            p50,
            p99,
            p999,
            format!("{:.1} %", measurement.stolen * 100.0),
        ]);
    }
    table
}

pub(super) fn millis(duration: Duration) -> String {
    format!("{:.2}", duration.as_secs_f64() * 1000.0)
}

/// How a ratio came out in each repeat.
pub(super) fn spread(mut ratios: Vec<f64>) -> String {
    ratios.sort_by(f64::total_cmp);
    match ratios.as_slice() {
        [] => "-".to_owned(),
        [only] => format!("{only:.2}"),
        [lowest, .., highest] => {
            let median = ratios[ratios.len() / 2];
            format!("{median:.2} ({lowest:.2} .. {highest:.2})")
        }
    }
}

/// What it was measured on, in one line.
pub(super) fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let processor = field(&read("/proc/cpuinfo"), "model name");
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let memory = field(&read("/proc/meminfo"), "MemTotal").and_then(|kib| {
        let kib: u64 = kib.split_whitespace().next()?.parse().ok()?;
        Some(format!("{} GiB", kib >> 20))
    });
    let unknown = || "?".to_owned();
    format!(
        "{cores} cores of {}, {} of memory, Linux {}",
        processor.unwrap_or_else(unknown),
        memory.unwrap_or_else(unknown),
        read("/proc/sys/kernel/osrelease").trim()
    )
}

/// Watches how much CPU time the host of this machine gives to others.
pub(super) struct Steal {
    stolen: u64,
    total: u64,
}

impl Steal {
    pub(super) fn start() -> Result<Self> {
        let stat = std::fs::read_to_string("/proc/stat").context("read /proc/stat")?;
        let first = stat.lines().next().unwrap_or_default();
        // cpu user nice system idle iowait irq softirq steal; guest times are part of user.
        let ticks: Vec<u64> =
            first.split_whitespace().skip(1).take(8).filter_map(|tick| tick.parse().ok()).collect();
        let stolen = *ticks.get(7).context("/proc/stat has no stolen time")?;
        Ok(Steal { stolen, total: ticks.iter().sum() })
    }

    /// The share since the start.
    pub(super) fn share(&self) -> Result<f64> {
        let now = Steal::start()?;
        let total = now.total.saturating_sub(self.total).max(1);
        #[expect(clippy::cast_precision_loss, reason = "ticks of a run are far below 2^52")]
        let share = now.stolen.saturating_sub(self.stolen) as f64 / total as f64;
        Ok(share)
    }
}

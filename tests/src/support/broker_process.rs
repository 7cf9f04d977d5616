//! A Kafka broker as a process of its own, run by `scripts/kafka`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use super::process::folder;
use super::{BrokerSettings, Process, free_port};

/// Long enough for the jars to be fetched first.
const START_LIMIT: Duration = Duration::from_secs(300);
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// One broker on 127.0.0.1 with its data in a folder. Killed when dropped and when the test ends.
#[derive(Debug)]
pub struct BrokerProcess {
    dir: PathBuf,
    port: u16,
    settings: BrokerSettings,
    process: Process,
    owned: Option<TempDir>,
}

impl BrokerProcess {
    /// Starts a broker on `port` (and `port + 1`) with its data under `dir`, and waits until it
    /// serves.
    pub fn start(dir: &Path, port: u16) -> Result<Self> {
        Self::start_with(dir, port, BrokerSettings::default())
    }

    /// Like [`BrokerProcess::start`], with other listeners and settings.
    pub fn start_with(dir: &Path, port: u16, settings: BrokerSettings) -> Result<Self> {
        let dir = folder(dir)?;
        let process = run(&dir, port, &settings, None)?;
        let broker = Self { dir, port, settings, process, owned: None };
        broker.add_user()?;
        Ok(broker)
    }

    /// Starts a broker on a free port in a folder that goes with it.
    pub fn temporary() -> Result<Self> {
        let owned = TempDir::with_prefix("anabranch-kafka-")?;
        let dir = folder(owned.path())?;
        let (port, settings) = (free_port(), BrokerSettings::default());
        let process = run(&dir, port, &settings, Some(&dir))?;
        Ok(Self { dir, port, settings, process, owned: Some(owned) })
    }

    /// Where clients without TLS and SASL connect to.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The broker's process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Kills the broker (`kill -9`).
    pub fn kill_hard(&mut self) -> Result<()> {
        self.process.kill_hard()
    }

    /// Stops the broker in order.
    pub fn stop(&mut self) -> Result<()> {
        self.process.terminate(STOP_LIMIT).map(|_| ())
    }

    /// Starts the broker again, on the same folder and port, and waits until it serves. One that
    /// still runs is killed first.
    pub fn restart(&mut self) -> Result<()> {
        self.kill_hard()?;
        let owned = self.owned.as_ref().map(|_| self.dir.as_path());
        self.process = run(&self.dir, self.port, &self.settings, owned)?;
        Ok(())
    }

    /// Runs a console tool of Kafka on this broker, such as `kafka-console-consumer`.
    pub fn tool(&self, name: &str, arguments: &[&str]) -> Result<Output> {
        tool(name, &self.address(), arguments)
    }

    /// SCRAM looks its users up in the broker's own metadata, PLAIN in the settings.
    fn add_user(&self) -> Result<()> {
        let Some((user, password)) = self.settings.user() else { return Ok(()) };
        for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
            let secret = format!("{mechanism}=[password={password}]");
            let entity = ["--alter", "--entity-type", "users", "--entity-name", user];
            let output =
                self.tool("kafka-configs", &[&entity[..], &["--add-config", &secret]].concat())?;
            if !output.status.success() {
                bail!("cannot add user {user}: {}", String::from_utf8_lossy(&output.stderr));
            }
        }
        Ok(())
    }
}

fn run(
    dir: &Path,
    port: u16,
    settings: &BrokerSettings,
    removed: Option<&Path>,
) -> Result<Process> {
    let mut command = Command::new(script());
    command.arg("start").arg(dir).arg(port.to_string()).args(settings.lines(dir, port)?);
    let mut process = Process::spawn_removing("kafka", &command, &dir.join("log"), removed)?;
    process.wait_for_output("Kafka Server started", START_LIMIT)?;
    Ok(process)
}

/// Runs a console tool on the broker at `address`, unless the arguments name another.
pub(super) fn tool(name: &str, address: &str, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(script());
    command.args(["tool", name]).args(tool_arguments(address, arguments));
    command.output().context("cannot run scripts/kafka")
}

pub(super) fn tool_arguments<'a>(address: &'a str, arguments: &[&'a str]) -> Vec<&'a str> {
    let mut all = Vec::with_capacity(arguments.len() + 2);
    if !arguments.contains(&"--bootstrap-server") {
        all.extend(["--bootstrap-server", address]);
    }
    all.extend(arguments);
    all
}

/// Tests run in the directory of their package. A path from when they were compiled would not do:
/// clones may share what was compiled.
fn script() -> PathBuf {
    std::path::absolute("../scripts/kafka").expect("there is a working directory")
}

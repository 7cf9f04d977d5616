//! Whole clusters of real processes, to be used over HTTP and killed.

mod api;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::support::{Process, free_port, wait_until};

pub use api::{Api, Reply};

/// The app of the tests.
pub const APP: &str = "2164bef3-37c0-489c-9ac6-c94b034525d7";
/// How long anything may take to come up or to settle on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A process of a cluster on Kafka.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    /// Takes writes and reads over HTTP.
    Ingest,
    /// Keeps the documents.
    StoreNode,
    /// Writes the change events.
    Cdc,
    /// Talks to other clusters.
    Bridge,
}

impl Service {
    /// All of them, in the order in which they are started.
    pub const ALL: [Service; 4] =
        [Service::StoreNode, Service::Ingest, Service::Cdc, Service::Bridge];

    fn subcommand(self) -> &'static str {
        match self {
            Service::Ingest => "ingest",
            Service::StoreNode => "store-node",
            Service::Cdc => "cdc",
            Service::Bridge => "bridge",
        }
    }
}

/// Certificates of two clusters that trust each other's authority, in a folder.
#[derive(Debug)]
pub struct Certificates {
    dir: PathBuf,
}

impl Certificates {
    /// Makes an authority and a certificate for each of `clusters`, with `anabranch ca`.
    pub fn make(binary: &Path, dir: &Path, clusters: &[&str]) -> Result<Self> {
        for cluster in clusters {
            let folder = dir.join(cluster);
            fs::create_dir_all(&folder)?;
            run(Command::new(binary).args(["ca", "init", "--dir"]).arg(&folder))?;
            let mut issue = Command::new(binary);
            issue.args(["ca", "issue", "--cluster", cluster, "--host", "127.0.0.1", "--dir"]);
            run(issue.arg(&folder))?;
        }
        Ok(Certificates { dir: dir.to_owned() })
    }

    /// The flags of a bridge of `cluster` that trusts the authorities of `trusted`.
    pub fn flags(&self, cluster: &str, trusted: &[&str]) -> Vec<String> {
        let file = |cluster: &str, name: &str| {
            self.dir.join(cluster).join(name).to_str().expect("a UTF-8 path").to_owned()
        };
        let mut flags = vec![
            "--tls-certificate".to_owned(),
            file(cluster, "cert.pem"),
            "--tls-key".to_owned(),
            file(cluster, "key.pem"),
        ];
        for other in trusted {
            flags.extend(["--tls-trusted-ca".to_owned(), file(other, "ca.pem")]);
        }
        flags
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    anyhow::ensure!(
        output.status.success(),
        "{command:?} failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// A cluster of four processes on Kafka.
#[derive(Debug)]
pub struct Cluster {
    name: String,
    dir: PathBuf,
    commands: BTreeMap<Service, Vec<String>>,
    binary: PathBuf,
    processes: BTreeMap<Service, Process>,
    /// Clients of each service's admin address; all use the HTTP API of ingest.
    apis: BTreeMap<Service, Api>,
    bridge: u16,
}

impl Cluster {
    /// A cluster that is not started yet; `bridge_flags` are its certificates.
    pub fn new(
        binary: &Path,
        dir: &Path,
        name: &str,
        kafka: &str,
        bridge_flags: &[String],
    ) -> Result<Self> {
        let dir = dir.join(format!("cluster-{name}"));
        fs::create_dir_all(&dir)?;
        let (http, bridge, store) = (free_port(), free_port(), free_port());
        let at = |port: u16| format!("127.0.0.1:{port}");
        let (mut commands, mut apis) = (BTreeMap::new(), BTreeMap::new());
        for service in Service::ALL {
            let admin = free_port();
            apis.insert(service, Api::new(http, admin));
            let mut flags = vec![service.subcommand().to_owned()];
            let mut flag = |name: &str, value: String| flags.extend([name.to_owned(), value]);
            flag("--kafka", kafka.to_owned());
            flag("--cluster", name.to_owned());
            flag("--listen-admin", at(admin));
            match service {
                Service::Ingest => flag("--listen", at(http)),
                Service::StoreNode => {
                    flag("--listen", at(store));
                    let data = dir.join("store");
                    flag("--data-dir", data.to_str().expect("a UTF-8 path").to_owned());
                }
                Service::Cdc => {}
                Service::Bridge => flag("--listen", at(bridge)),
            }
            if service != Service::StoreNode {
                flag("--store-node", at(store));
            }
            if service == Service::Bridge {
                flags.extend_from_slice(bridge_flags);
            }
            commands.insert(service, flags);
        }
        Ok(Cluster {
            name: name.to_owned(),
            dir,
            commands,
            binary: binary.to_owned(),
            processes: BTreeMap::new(),
            apis,
            bridge,
        })
    }

    /// The cluster's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its bridge listens.
    pub fn bridge_address(&self) -> String {
        format!("127.0.0.1:{}", self.bridge)
    }

    /// Its HTTP API.
    pub fn api(&self) -> Api {
        self.apis[&Service::Ingest].clone()
    }

    /// Whether a service says that it can do its work.
    pub fn is_ready(&self, service: Service) -> bool {
        self.apis[&service].is_admin_ready()
    }

    /// Whether its bridge is connected to that of another cluster.
    pub fn is_linked(&self) -> bool {
        let status = self.status_of(Service::Bridge);
        let links = status.ok().and_then(|status| status["links"].as_array().cloned());
        links.unwrap_or_default().iter().any(|link| link["connected"].is_object())
    }

    /// What `anabranch status` shows when it asks this service.
    pub fn status_of(&self, service: Service) -> Result<Value> {
        self.apis[&service].status()
    }

    /// Starts one service that does not run. If it crashes it leaves a core dump, if this machine
    /// writes them into the folder of the process.
    pub fn start(&mut self, service: Service) -> Result<()> {
        let mut command = Command::new("sh");
        command.args(["-c", r#"ulimit -c unlimited 2> /dev/null; exec "$0" "$@""#]);
        command.arg(&self.binary).args(&self.commands[&service]).current_dir(&self.dir);
        let log = self.dir.join(format!("{}.log", service.subcommand()));
        let name = format!("{} of {}", service.subcommand(), self.name);
        self.processes.insert(service, Process::spawn(&name, &command, &log)?);
        Ok(())
    }

    /// Starts all services and waits until the HTTP API is ready.
    pub fn start_all(&mut self) -> Result<()> {
        Service::ALL.into_iter().try_for_each(|service| self.start(service))?;
        let api = self.api();
        wait_until("the cluster is ready", PATIENCE, || Ok(api.is_ready()))
            .with_context(|| self.logs())
    }

    /// Kills one service (`kill -9`) and starts it again.
    pub fn kill_and_restart(&mut self, service: Service) -> Result<()> {
        if let Some(mut process) = self.processes.remove(&service) {
            process.kill_hard()?;
        }
        self.start(service)
    }

    /// Starts every service again that has ended by itself, as whoever supervises processes does.
    /// What each ended with, and its last words.
    pub fn revive(&mut self) -> Result<Vec<String>> {
        let mut ended = Vec::new();
        for service in Service::ALL {
            let Some(process) = self.processes.get_mut(&service) else { continue };
            if let Some(status) = process.ended()? {
                let (name, last) = (service.subcommand(), process.last_lines());
                ended.push(format!("{name} of {}: {status}; {last}", self.name));
                self.start(service)?;
            }
        }
        Ok(ended)
    }

    /// What the cluster says of itself, and the last lines of every service's log, for a failure's
    /// message.
    pub fn logs(&self) -> String {
        let status = self.api().status();
        let status = status.map_or_else(|error| format!("{error:#}"), |status| status.to_string());
        let mut text = format!("--- status of {}: {status}\n", self.name);
        for service in Service::ALL {
            let file = self.dir.join(format!("{}.log", service.subcommand()));
            let log = fs::read_to_string(&file).unwrap_or_default();
            // A broker that is down is told by librdkafka many times.
            let told = log.lines().rev().filter(|line| !line.contains("kafka: librdkafka"));
            let lines: Vec<_> = told.take(30).collect();
            let state = self.processes.get(&service).map_or("not started".to_owned(), state);
            text.push_str(&format!("--- {} of {}: {state}\n", service.subcommand(), self.name));
            for line in lines.iter().rev() {
                text.push_str(line);
                text.push('\n');
            }
        }
        text
    }
}

/// What the kernel says of a process: its state, and the wait status of one that has ended.
fn state(process: &Process) -> String {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.pid())).unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let mut fields = fields.split_whitespace();
    match (fields.next(), fields.next_back()) {
        (Some("Z"), Some(status)) => format!("ended with wait status {status}"),
        (Some(state), _) => format!("in state {state}"),
        _ => "gone".to_owned(),
    }
}

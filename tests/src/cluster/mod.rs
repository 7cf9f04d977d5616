//! Whole clusters of real processes, to be used over HTTP and killed.

mod api;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

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
    /// Keeps the documents, or a part of them: one of several, by number.
    StoreNode(usize),
    /// Writes the change events.
    Cdc,
    /// Talks to other clusters.
    Bridge,
}

impl Service {
    /// One of each kind.
    pub const KINDS: [Service; 4] =
        [Service::StoreNode(0), Service::Ingest, Service::Cdc, Service::Bridge];

    fn subcommand(self) -> &'static str {
        match self {
            Service::Ingest => "ingest",
            Service::StoreNode(_) => "store-node",
            Service::Cdc => "cdc",
            Service::Bridge => "bridge",
        }
    }

    /// Its name among the processes of its cluster.
    fn name(self) -> String {
        match self {
            Service::StoreNode(number) => format!("{}-{number}", self.subcommand()),
            other => other.subcommand().to_owned(),
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

/// A cluster of processes on Kafka.
#[derive(Debug)]
pub struct Cluster {
    name: String,
    dir: PathBuf,
    /// The resource that declares its store nodes, unless there is but one.
    declared: Option<Value>,
    commands: BTreeMap<Service, Vec<String>>,
    binary: PathBuf,
    processes: BTreeMap<Service, Process>,
    /// Clients of each service's admin address; all use the HTTP API of ingest.
    apis: BTreeMap<Service, Api>,
    bridge: u16,
}

impl Cluster {
    /// A cluster that is not started yet; `bridge_flags` are its certificates. It has so many
    /// partitions of so many store nodes each, or one store node for everything.
    pub fn new(
        binary: &Path,
        dir: &Path,
        name: &str,
        kafka: &str,
        bridge_flags: &[String],
        partitions: Option<(usize, usize)>,
    ) -> Result<Self> {
        let dir = dir.join(format!("cluster-{name}"));
        fs::create_dir_all(&dir)?;
        let (http, bridge) = (free_port(), free_port());
        let at = |port: u16| format!("127.0.0.1:{port}");
        let nodes = partitions.map_or(1, |(partitions, replicas)| partitions * replicas);
        let stores: Vec<_> = (0..nodes).map(|_| free_port()).collect();
        let declared = partitions.map(|(_, replicas)| {
            let addresses: Vec<_> = stores.iter().map(|port| at(*port)).collect();
            declaration(name, &addresses, replicas)
        });
        let (mut commands, mut apis) = (BTreeMap::new(), BTreeMap::new());
        for service in services(nodes) {
            let admin = free_port();
            apis.insert(service, Api::new(http, admin));
            let mut flags = vec![service.subcommand().to_owned()];
            let mut flag = |name: &str, value: String| flags.extend([name.to_owned(), value]);
            flag("--kafka", kafka.to_owned());
            flag("--cluster", name.to_owned());
            flag("--listen-admin", at(admin));
            match service {
                Service::Ingest => flag("--listen", at(http)),
                Service::StoreNode(number) => {
                    flag("--listen", at(stores[number]));
                    if declared.is_some() {
                        flag("--node", node(number));
                    }
                    let data = dir.join(service.name());
                    flag("--data-dir", data.to_str().expect("a UTF-8 path").to_owned());
                }
                Service::Cdc => {}
                Service::Bridge => flag("--listen", at(bridge)),
            }
            if declared.is_none() && !matches!(service, Service::StoreNode(_)) {
                flag("--store-node", at(stores[0]));
            }
            if service == Service::Bridge {
                flags.extend_from_slice(bridge_flags);
            }
            commands.insert(service, flags);
        }
        Ok(Cluster {
            name: name.to_owned(),
            dir,
            declared,
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

    /// Its services.
    pub fn services(&self) -> impl Iterator<Item = Service> {
        self.commands.keys().copied()
    }

    /// How many store nodes it has.
    pub fn store_nodes(&self) -> usize {
        self.services().filter(|service| matches!(service, Service::StoreNode(_))).count()
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
        let log = self.dir.join(format!("{}.log", service.name()));
        let name = format!("{} of {}", service.name(), self.name);
        self.processes.insert(service, Process::spawn(&name, &command, &log)?);
        Ok(())
    }

    /// Starts all services and waits until the HTTP API is ready.
    pub fn start_all(&mut self) -> Result<()> {
        let api = self.api();
        let mut services: Vec<_> = self.services().collect();
        if let Some(declared) = self.declared.clone() {
            // Store nodes have to know which ones they are, and ingest is whom to tell.
            self.start(Service::Ingest)?;
            services.retain(|service| *service != Service::Ingest);
            wait_until("the store nodes are declared", PATIENCE, || {
                Ok(api.apply(&declared).is_ok())
            })
            .with_context(|| self.logs())?;
        }
        services.into_iter().try_for_each(|service| self.start(service))?;
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
        for service in self.services().collect::<Vec<_>>() {
            let Some(process) = self.processes.get_mut(&service) else { continue };
            if let Some(status) = process.ended()? {
                let (name, last) = (service.name(), process.last_lines());
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
        for service in self.services() {
            let file = self.dir.join(format!("{}.log", service.name()));
            let log = fs::read_to_string(&file).unwrap_or_default();
            // A broker that is down is told by librdkafka many times.
            let told = log.lines().rev().filter(|line| !line.contains("kafka: librdkafka"));
            let lines: Vec<_> = told.take(30).collect();
            let state = self.processes.get(&service).map_or("not started".to_owned(), state);
            text.push_str(&format!("--- {} of {}: {state}\n", service.name(), self.name));
            for line in lines.iter().rev() {
                text.push_str(line);
                text.push('\n');
            }
        }
        text
    }
}

/// The services of a cluster with so many store nodes, in the order in which they are started.
fn services(store_nodes: usize) -> impl Iterator<Item = Service> {
    let others = [Service::Ingest, Service::Cdc, Service::Bridge];
    (0..store_nodes).map(Service::StoreNode).chain(others)
}

/// The name of a store node.
fn node(number: usize) -> String {
    format!("node-{number}")
}

/// A cluster whose partitions have so many of these nodes each.
fn declaration(cluster: &str, addresses: &[String], replicas: usize) -> Value {
    let nodes: Vec<_> =
        addresses.iter().enumerate().map(|(number, address)| (node(number), address)).collect();
    let partition = |nodes: &[(String, &String)]| {
        let nodes = nodes.iter().map(|(name, address)| (name.clone(), json!(address)));
        json!({"nodes": nodes.collect::<serde_json::Map<_, _>>()})
    };
    json!({
        "apiVersion": "anabranch/v1",
        "kind": "Cluster",
        "metadata": {"name": cluster},
        "spec": {"partitions": nodes.chunks(replicas).map(partition).collect::<Vec<_>>()},
    })
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

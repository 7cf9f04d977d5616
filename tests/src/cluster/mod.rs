//! Whole clusters of real processes, to be used over HTTP and killed.

mod api;
mod dev;
mod live;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow, ensure};
use serde_json::{Value, json};

use crate::support::{End, Network, Process, free_port, wait_until};

pub use api::{Api, Reply, Terms, plain_client};
pub use dev::Dev;
pub use live::Follower;

/// The file with the admin key of all clusters here.
pub const ADMIN_KEY_FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/admin.key");
/// What it has.
pub(crate) const ADMIN_KEY: &str = include_str!("../../fixtures/admin.key");

/// The app of the tests.
pub const APP: &str = "2164bef3-37c0-489c-9ac6-c94b034525d7";
/// How long anything may take to come up or to settle on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A process of a cluster on Kafka.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    /// Takes writes and reads over HTTP: one of several, by number.
    Ingest(usize),
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
        [Service::StoreNode(0), Service::Ingest(0), Service::Cdc, Service::Bridge];

    fn subcommand(self) -> &'static str {
        match self {
            Service::Ingest(_) => "ingest",
            Service::StoreNode(_) => "store-node",
            Service::Cdc => "cdc",
            Service::Bridge => "bridge",
        }
    }

    /// Its name among the processes of its cluster.
    fn name(self) -> String {
        match self {
            Service::StoreNode(number) | Service::Ingest(number) => {
                format!("{}-{number}", self.subcommand())
            }
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
    ensure!(
        output.status.success(),
        "{command:?} failed: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// What a cluster consists of.
#[derive(Clone, Debug)]
pub struct Layout {
    /// So many partitions of so many store nodes each; without it one store node has everything.
    pub partitions: Option<(usize, usize)>,
    /// How many servers take writes and reads.
    pub ingests: usize,
    /// The certificates of its bridge, as flags; without it the cluster has none.
    pub bridge: Option<Vec<String>>,
    /// Through which its store nodes are reached.
    pub network: Option<Arc<Network>>,
    /// Where each store node finds the log, if that is not where all others do.
    pub logs: Vec<String>,
    /// Settings of all its services, as variables of their environment.
    pub settings: Vec<(&'static str, &'static str)>,
}

impl Default for Layout {
    fn default() -> Self {
        Layout {
            partitions: None,
            ingests: 1,
            bridge: None,
            network: None,
            logs: Vec::new(),
            settings: Vec::new(),
        }
    }
}

impl Layout {
    /// One server of each kind, with a bridge that has these certificates.
    pub fn bridged(bridge_flags: &[String]) -> Self {
        Layout { bridge: Some(bridge_flags.to_vec()), ..Layout::default() }
    }

    fn store_nodes(&self) -> usize {
        self.partitions.map_or(1, |(partitions, replicas)| partitions * replicas)
    }

    /// Its services, in the order in which they are started.
    fn services(&self) -> impl Iterator<Item = Service> {
        let nodes = (0..self.store_nodes()).map(Service::StoreNode);
        let others = (0..self.ingests).map(Service::Ingest).chain([Service::Cdc]);
        nodes.chain(others).chain(self.bridge.as_ref().map(|_| Service::Bridge))
    }
}

/// A cluster of processes on Kafka.
#[derive(Debug)]
pub struct Cluster {
    name: String,
    dir: PathBuf,
    /// The resource that declares its store nodes, unless there is but one.
    declared: Option<Value>,
    network: Option<Arc<Network>>,
    commands: BTreeMap<Service, Vec<String>>,
    settings: Vec<(&'static str, &'static str)>,
    binary: PathBuf,
    processes: BTreeMap<Service, Process>,
    /// Clients of each service's admin address; all but those of ingest use the HTTP API of the
    /// first one of ingest.
    apis: BTreeMap<Service, Api>,
    stores: Vec<u16>,
    bridge: u16,
}

fn at(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

impl Cluster {
    /// A cluster that is not started yet, on the Kafka at this address.
    pub fn new(
        binary: &Path,
        dir: &Path,
        name: &str,
        kafka: &str,
        layout: &Layout,
    ) -> Result<Self> {
        let dir = dir.join(format!("cluster-{name}"));
        fs::create_dir_all(&dir)?;
        let https: Vec<_> = (0..layout.ingests).map(|_| free_port()).collect();
        let stores: Vec<_> = (0..layout.store_nodes()).map(|_| free_port()).collect();
        let bridge = free_port();
        let declared = match layout.partitions {
            Some((_, replicas)) => {
                let addresses = addresses(&stores, layout.network.as_deref())?;
                Some(declaration(name, &addresses, replicas))
            }
            None => None,
        };
        let (mut commands, mut apis) = (BTreeMap::new(), BTreeMap::new());
        for service in layout.services() {
            let (admin, mut http) = (free_port(), https[0]);
            let mut flags = vec![service.subcommand().to_owned()];
            let mut flag = |name: &str, value: String| flags.extend([name.to_owned(), value]);
            let mut log = kafka.to_owned();
            match service {
                Service::Ingest(number) => {
                    http = https[number];
                    flag("--listen", at(http));
                    flag("--server-name", service.name());
                }
                Service::StoreNode(number) => {
                    log = layout.logs.get(number).cloned().unwrap_or(log);
                    flag("--listen", at(stores[number]));
                    if declared.is_some() {
                        flag("--node", node(number));
                    }
                    flag("--data-dir", service.name());
                }
                Service::Cdc => {}
                Service::Bridge => flag("--listen", at(bridge)),
            }
            flag("--kafka", log);
            flag("--cluster", name.to_owned());
            flag("--listen-admin", at(admin));
            if declared.is_none() && !matches!(service, Service::StoreNode(_)) {
                flag("--store-node", at(stores[0]));
            }
            if service == Service::Bridge {
                flags.extend(layout.bridge.iter().flatten().cloned());
            }
            apis.insert(service, Api::new(http, admin));
            commands.insert(service, flags);
        }
        Ok(Cluster {
            name: name.to_owned(),
            dir,
            declared,
            network: layout.network.clone(),
            commands,
            settings: layout.settings.clone(),
            binary: binary.to_owned(),
            processes: BTreeMap::new(),
            apis,
            stores,
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

    /// Where one of its store nodes listens; others may reach it by a way through a network.
    pub fn store_node_address(&self, number: usize) -> String {
        at(self.stores[number])
    }

    /// Where its bridge listens.
    pub fn bridge_address(&self) -> String {
        format!("127.0.0.1:{}", self.bridge)
    }

    /// Its HTTP API.
    pub fn api(&self) -> Api {
        self.api_of(Service::Ingest(0))
    }

    /// The admin API of one of its services, with the HTTP API of it or of its cluster.
    pub fn api_of(&self, service: Service) -> Api {
        self.apis[&service].clone()
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

    /// Fails unless all replicas of each partition hold the same, as `anabranch status --verify`
    /// finds.
    pub fn verify(&self) -> Result<()> {
        let server = self.apis[&Service::Ingest(0)].admin_url();
        run(Command::new(&self.binary).args(["status", "--verify", "--server", server]))
    }

    /// Starts one service that does not run. If it crashes it leaves a core dump, if this machine
    /// writes them into the folder of the process.
    pub fn start(&mut self, service: Service) -> Result<()> {
        let mut command = Command::new("sh");
        command.args(["-c", r#"ulimit -c unlimited 2> /dev/null; exec "$0" "$@""#]);
        command.arg(&self.binary).args(&self.commands[&service]).current_dir(&self.dir);
        // Keys have tests of their own.
        command.env("ANABRANCH_INGEST__OPEN_TO_ALL", "true");
        command.env("ANABRANCH_ADMIN_KEY_FILE", ADMIN_KEY_FILE);
        command.envs(self.settings.iter().copied());
        let log = self.dir.join(format!("{}.log", service.name()));
        let name = format!("{} of {}", service.name(), self.name);
        let process = Process::spawn(&name, &command, &log)?;
        if let (Service::StoreNode(number), Some(network)) = (service, &self.network) {
            network.set_process(End::Node(number), process.pid());
        }
        self.processes.insert(service, process);
        Ok(())
    }

    /// Starts all services and waits until the HTTP API is ready.
    pub fn start_all(&mut self) -> Result<()> {
        let api = self.api();
        let mut services: Vec<_> = self.services().collect();
        if let Some(declared) = self.declared.clone() {
            // Store nodes have to know which ones they are, and ingest is whom to tell.
            self.start(Service::Ingest(0))?;
            services.retain(|service| *service != Service::Ingest(0));
            wait_until("the store nodes are declared", PATIENCE, || {
                Ok(api.apply(&declared).is_ok())
            })
            .map_err(|error| self.explained(&error))?;
        }
        services.into_iter().try_for_each(|service| self.start(service))?;
        wait_until("the cluster is ready", PATIENCE, || Ok(api.is_ready()))
            .map_err(|error| self.explained(&error))
    }

    /// Kills one service (`kill -9`) and starts it again.
    pub fn kill_and_restart(&mut self, service: Service) -> Result<()> {
        self.kill(service)?;
        self.start(service)
    }

    /// Kills one service after the other and starts it again, as long as there is something to do.
    pub fn kill_while(&mut self, victims: &[Service], goes_on: impl Fn() -> bool) -> Result<()> {
        for victim in victims.iter().copied().cycle() {
            if !goes_on() {
                return Ok(());
            }
            self.kill(victim)?;
            // Long enough for others to notice.
            std::thread::sleep(Duration::from_millis(300));
            self.start(victim)?;
            let ready = format!("{victim:?} is ready again");
            wait_until(&ready, PATIENCE, || Ok(self.is_ready(victim)))?;
        }
        Ok(())
    }

    /// Kills one service (`kill -9`).
    pub fn kill(&mut self, service: Service) -> Result<()> {
        match self.processes.remove(&service) {
            Some(mut process) => process.kill_hard(),
            None => Ok(()),
        }
    }

    /// Sends a signal to a service that runs, named as `kill` names it.
    pub fn signal(&mut self, service: Service, name: &str) -> Result<()> {
        let process = self.processes.get_mut(&service);
        process.with_context(|| format!("{} does not run", service.name()))?.signal(name)
    }

    /// Deletes all that a service keeps on disk, which must not run.
    pub fn wipe(&mut self, service: Service) -> Result<()> {
        ensure!(!self.processes.contains_key(&service), "{} runs", service.name());
        let data = self.dir.join(service.name());
        fs::remove_dir_all(&data).with_context(|| format!("cannot delete {}", data.display()))
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

    /// A failure, and behind it what there is to see of the cluster.
    pub fn explained(&self, error: &Error) -> Error {
        anyhow!("{error:#}\n{}", self.logs())
    }

    /// What the cluster says of itself, and the last lines of every service's log.
    fn logs(&self) -> String {
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

/// Where the store nodes at these ports are reached.
fn addresses(stores: &[u16], network: Option<&Network>) -> Result<Vec<String>> {
    let reached = stores.iter().enumerate().map(|(number, port)| match network {
        Some(network) => network.way(End::Node(number), *port).map(at),
        None => Ok(at(*port)),
    });
    reached.collect()
}

/// The name of a store node.
pub fn node(number: usize) -> String {
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

//! `anabranch dev --demo`: clusters east and west in one process, each with its own log, joined by
//! a bridge with mutual TLS that is as real as between continents.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use anabranch_bridge::identity::{self, IdentityFiles};
use anabranch_ingest::{ApiToken, Operators};
use anabranch_runtime::telemetry::{self, MetricsHandle};
use anabranch_runtime::tls::TlsFiles;
use anabranch_schemas::resources::Resource;
use anabranch_schemas::topics::ClusterName;
use anyhow::{Context, Result};
use serde_json::json;

use super::{KEY_FILE, admin_key, key_of};
use crate::apply;
use crate::client::{Client, EXAMPLE_APP, TrustFlags};
use crate::demo_walk::Walk;
use crate::failure::Failure;
use crate::host::{self, Host, Signals};
use crate::https::Https;
use crate::local::{Local, Start};
use crate::output::print;
use crate::settings::Settings;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Where the second cluster of the demo is.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "With --demo, where cluster west is")]
pub(super) struct WestFlags {
    /// Its HTTP API.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8090", requires = "demo")]
    listen_west: SocketAddr,
    /// Its health, metrics and status.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8091", requires = "demo")]
    listen_admin_west: SocketAddr,
}

/// What opens both clusters.
struct Keys {
    /// To those who use them.
    token: ApiToken,
    /// To those who declare resources.
    operators: ApiToken,
}

/// Where one cluster of the demo is.
struct Place {
    name: ClusterName,
    http: SocketAddr,
    admin: SocketAddr,
    bridge: SocketAddr,
    flags: [&'static str; 2],
}

pub(super) async fn run(settings: &Settings, west: WestFlags, signals: &mut Signals) -> Result<()> {
    if settings.bridge.tls.is_some() {
        return Err(Failure::usage("--demo makes its own certificates").into());
    }
    if settings.https.is_some() {
        return Err(Failure::usage("--demo serves plain HTTP, without a certificate").into());
    }
    let dir = settings.data_dir.clone().unwrap_or_else(|| PathBuf::from("anabranch-demo"));
    let host = Host::new();
    let metrics = telemetry::install_metrics()?;
    host.keep_metrics(metrics.clone());
    let east = Place {
        name: "east".parse()?,
        http: settings.listen,
        admin: settings.listen_admin,
        bridge: remembered_bridge(&dir),
        flags: ["--listen", "--listen-admin"],
    };
    let west = Place {
        name: "west".parse()?,
        http: west.listen_west,
        admin: west.listen_admin_west,
        // Nobody dials it: west dials east.
        bridge: SocketAddr::new(LOOPBACK, 0),
        flags: ["--listen-west", "--listen-admin-west"],
    };
    let key_file = dir.join(KEY_FILE);
    let token = key_of(&dir, &key_file)?;
    let keys = Keys { operators: admin_key(settings, &dir)?, token };
    let started = async {
        let Some(east) = start(&host, settings, &metrics, &dir, &keys, east).await? else {
            return Ok(None);
        };
        let Some(west) = start(&host, settings, &metrics, &dir, &keys, west).await? else {
            return Ok(None);
        };
        let ready = east.ready(&host).await && west.ready(&host).await;
        Ok::<_, anyhow::Error>(ready.then_some((east, west)))
    };
    let started = tokio::select! {
        started = started => started?,
        _ = signals.next() => None,
    };
    let timeout = settings.shutdown_timeout();
    let Some((east, west)) = started else {
        return host.close_or_break_off(timeout, signals).await;
    };
    let shown = tokio::select! {
        shown = show(&east, &west, &dir, &keys) => shown,
        // The walk is left where it is; the next run goes on from there.
        () = host.ends() => Ok(()),
        _ = signals.next() => return host.close_or_break_off(timeout, signals).await,
    };
    if let Err(error) = shown {
        // Whatever happens at the end, this is what went wrong first.
        let _ = host.close_or_break_off(timeout, signals).await;
        return Err(error);
    }
    host.serve(timeout, signals).await
}

async fn start(
    host: &Host,
    settings: &Settings,
    metrics: &MetricsHandle,
    dir: &Path,
    keys: &Keys,
    place: Place,
) -> Result<Option<Local>> {
    let Place { name, http, admin, bridge, flags: [http_flag, admin_flag] } = place;
    let http = host::listen(http, http_flag).await?;
    let admin = host::listen(admin, admin_flag).await?;
    let mut settings = settings.clone();
    settings.bridge.listen = bridge;
    settings.bridge.tls = Some(certificates(dir, &name)?);
    let (metrics, key) = (metrics.clone(), Some(&keys.token));
    let operators = Operators::Holding(keys.operators.clone());
    let https = &Https::none();
    let start =
        Start { host, settings: &settings, metrics, name, dir, key, operators, http, admin, https };
    start.start().await
}

/// The certificates of a cluster, made if they are not there: each has an authority of its own and
/// trusts both.
fn certificates(dir: &Path, name: &ClusterName) -> Result<TlsFiles> {
    let files =
        |cluster: &str| IdentityFiles::in_directory(&dir.join(cluster).join("certificates"));
    let mut trusted = Vec::new();
    for cluster in ["east", "west"] {
        let files = files(cluster);
        if !files.certificate.exists() {
            let folder = dir.join(cluster).join("certificates");
            // Left by a run that was killed in between.
            let _ = fs::remove_dir_all(&folder);
            identity::write_files(&folder, &cluster.parse()?, &[LOOPBACK.to_string()])
                .context("make certificates")?;
        }
        trusted.push(files.ca);
    }
    Ok(files(name.as_str()).tls(trusted))
}

/// Where east's bridge listened the last time, if it still can: so that what west has declared
/// stays as it is.
fn remembered_bridge(dir: &Path) -> SocketAddr {
    let remembered = fs::read_to_string(address_file(dir)).ok().and_then(|text| text.parse().ok());
    let usable = remembered.filter(|&address: &SocketAddr| TcpListener::bind(address).is_ok());
    usable.unwrap_or(SocketAddr::new(LOOPBACK, 0))
}

fn address_file(dir: &Path) -> PathBuf {
    dir.join("east").join("bridge-address")
}

/// Declares the replications, walks through them, and says what to try.
async fn show(east: &Local, west: &Local, dir: &Path, keys: &Keys) -> Result<()> {
    let Keys { token, operators } = keys;
    let bridge = east.bridge.context("east has no bridge")?;
    let file = address_file(dir);
    fs::write(&file, bridge.to_string()).with_context(|| format!("write {}", file.display()))?;
    print(format_args!("clusters east and west run on embedded logs in {}", dir.display()))?;
    print(format_args!("  east  {}  admin {}", east.api_url, east.admin_url))?;
    print(format_args!("  west  {}  admin {}", west.api_url, west.admin_url))?;
    print(format_args!(
        "  west dials the bridge of east at {bridge}: TLS 1.3, both show certificates"
    ))?;
    print(format_args!(
        "  both let in whoever has the key {}  (kept in {})",
        token.reveal(),
        dir.join(KEY_FILE).display()
    ))?;
    print("")?;
    for (cluster, connections) in [(east, vec![]), (west, vec![bridge.to_string()])] {
        let resource = japanese_cars(&connections)?;
        let admin = Client::new(&cluster.admin_url, &TrustFlags::default())?.showing(operators);
        let change = apply::put(&admin, &resource, false).await;
        let change =
            change.with_context(|| format!("declare what {} wants", cluster.cluster.name))?;
        print(format_args!(
            "{}: wants the Japanese cars of the other: {change}",
            cluster.cluster.name
        ))?;
    }
    let client = |cluster: &Local| {
        let client = Client::new(&cluster.api_url, &TrustFlags::default());
        client.map(|client| client.showing(token))
    };
    let walk = Walk { east: client(east)?, west: client(west)?, app: EXAMPLE_APP };
    walk.all().await?;
    print("")?;
    print("Try, while it runs (stop with Ctrl-C):")?;
    print("")?;
    for line in walk.hints(Some(&dir.join(KEY_FILE))) {
        print(format_args!("  {line}"))?;
    }
    Ok(())
}

fn japanese_cars(connections: &[String]) -> Result<Resource> {
    let resource = json!({
        "apiVersion": "anabranch/v1",
        "kind": "Replication",
        "metadata": { "name": "japanese-cars", "app": EXAMPLE_APP },
        "spec": {
            "connections": connections,
            "subscriptions": { "queriesByCollection": { "cars": ["Origin = 'Japan'"] } },
        },
    });
    Ok(Resource::from_value(&resource)?)
}

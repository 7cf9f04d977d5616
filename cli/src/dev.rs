//! `anabranch dev`: a whole cluster in one process, on the embedded log.

mod certified;
mod demo;

use std::fs;
use std::path::{Path, PathBuf};

use anabranch_ingest::{ApiToken, Operators};
use anabranch_runtime::telemetry;
use anyhow::{Context, Result};

use crate::client::EXAMPLE_APP;
use crate::demo_walk::{execute, read};
use crate::host::{self, Host, Signals};
use crate::https::{self, Https};
use crate::key_file;
use crate::local::{Local, Start};
use crate::output::print;
use crate::settings::{Builder, LogFormat, Settings, SettingsFlags, TlsFlags};

use certified::Certified;

/// Run a whole cluster in one process, on an embedded log. Stop it with Ctrl-C: what was
/// acknowledged is there when it is started again.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run two clusters, east and west, that replicate: load cars into east and follow the Japanese
    /// ones into west.
    #[arg(long)]
    demo: bool,
    /// Where to keep everything [default: anabranch-data; anabranch-demo with --demo].
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// The cluster's name [default: dev].
    #[arg(long, value_name = "NAME", conflicts_with = "demo")]
    name: Option<String>,
    /// Where to serve the HTTP API [default: 127.0.0.1:8080].
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Where bridges of other clusters dial this one, if it has a certificate
    /// [default: 127.0.0.1:4040].
    #[arg(long, value_name = "ADDRESS")]
    listen_bridge: Option<String>,
    #[command(flatten)]
    tls: TlsFlags,
    #[command(flatten)]
    west: demo::WestFlags,
    #[command(flatten)]
    settings: SettingsFlags,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let Args { demo, data_dir, name, listen, listen_bridge, tls, west, settings } = args;
    let settings = Builder::new(settings)?
        .flag("--data-dir", &["data_dir"], data_dir)
        .flag("--name", &["cluster"], name)
        .flag("--listen", &["listen"], listen)
        .flag("--listen-bridge", &["bridge", "listen"], listen_bridge)
        .tls(tls)
        .finish()?;
    let Some(settings) = settings else { return Ok(()) };
    let mut signals = Signals::watch()?;
    // Who runs this looks at what it prints; the log is for when something is wrong.
    telemetry::init_tracing_at(settings.log_format == LogFormat::Json, "warn");
    https::warn_of_clear_text(&settings);
    if demo {
        demo::run(&settings, west, &mut signals).await
    } else {
        single(&settings, &mut signals).await
    }
}

async fn single(settings: &Settings, signals: &mut Signals) -> Result<()> {
    let name = match &settings.cluster {
        Some(name) => name.clone(),
        None => "dev".parse().context("name the cluster")?,
    };
    let dir = settings.data_dir.clone().unwrap_or_else(|| PathBuf::from("anabranch-data"));
    let host = Host::new();
    let metrics = telemetry::install_metrics()?;
    host.keep_metrics(metrics.clone());
    let https = &Https::open(settings, &host)?;
    let http = host::listen(settings.listen, "--listen").await?;
    let admin = host::listen(settings.listen_admin, "--listen-admin").await?;
    let key_file = dir.join(KEY_FILE);
    let token = key_of(&dir, &key_file)?;
    let key = Some(&token);
    let operators = Operators::Holding(admin_key(settings, &dir)?);
    let start = Start {
        host: &host,
        settings,
        metrics,
        name,
        http,
        admin,
        https,
        dir: &dir,
        key,
        operators,
    };
    let started = async {
        let Some(local) = start.start().await? else { return Ok(None) };
        Ok::<_, anyhow::Error>(local.ready(&host).await.then_some(local))
    };
    let started = tokio::select! {
        started = started => started?,
        _ = signals.next() => None,
    };
    let Some(local) = started else {
        return host.close_or_break_off(settings.shutdown_timeout(), signals).await;
    };
    let certified = settings.https.as_ref().map(|files| Certified::read(&files.certificate));
    tell(&local, certified.as_ref(), &dir, &key_file, &token)?;
    host.serve(settings.shutdown_timeout(), signals).await
}

/// The file in the data directory that has the key of whoever runs it.
const KEY_FILE: &str = "dev.key";

/// The key of whoever runs this, made if there is none.
fn key_of(dir: &Path, file: &Path) -> Result<ApiToken> {
    fs::create_dir_all(dir).with_context(|| format!("make {}", dir.display()))?;
    key_file::read_or_make(file, &"dev".parse()?)
}

/// The key of those who declare resources, made if there is none.
fn admin_key(settings: &Settings, dir: &Path) -> Result<ApiToken> {
    let file = settings.admin_key_file.clone().unwrap_or_else(|| dir.join("admin.key"));
    key_file::read_or_make(&file, &"admin".parse()?)
}

/// Says where everything is, and what to try.
fn tell(
    local: &Local,
    certified: Option<&Certified>,
    dir: &Path,
    key_file: &Path,
    token: &ApiToken,
) -> Result<()> {
    let Local { cluster, http, api_url, admin_url, bridge, .. } = local;
    let callable = |url: &str| {
        let listening = url.strip_prefix("https://").and_then(|address| address.parse().ok());
        certified.zip(listening).map_or_else(|| url.to_owned(), |(it, listening)| it.url(listening))
    };
    let (api_url, admin_url) = (callable(api_url), callable(admin_url));
    let dir = dir.display();
    print(format_args!("cluster {} runs on the embedded log in {dir}", cluster.name))?;
    print("")?;
    print(format_args!("  HTTP API  {api_url}  (described by /openapi.json)"))?;
    print(format_args!("  admin     {admin_url}  (/readyz, /metrics, anabranch status)"))?;
    match bridge {
        Some(bridge) => print(format_args!("  bridge    {bridge}"))?,
        None => print("  bridge    off: it needs certificates, see 'anabranch ca --help'")?,
    }
    print(format_args!("  key       {}  (kept in {})", token.reveal(), key_file.display()))?;
    print("")?;
    print("Try, while it runs (stop with Ctrl-C):")?;
    print("")?;
    let mut lines = certified.map_or_else(Vec::new, |certified| certified.steps(*http));
    lines.extend(examples(&api_url, key_file));
    for line in lines {
        print(format_args!("  {line}"))?;
    }
    Ok(())
}

fn examples(server: &str, key_file: &Path) -> Vec<String> {
    let insert = r#"{"statement": "INSERT INTO cars DOCUMENTS (:car) ON ID CONFLICT DO UPDATE", "args": {"car": {"_id": "first", "Name": "datsun pl510"}}}"#;
    let select = r#"{"statement": "SELECT * FROM cars LIMIT 3"}"#;
    vec![
        execute(server, EXAMPLE_APP, Some(key_file), insert),
        execute(server, EXAMPLE_APP, Some(key_file), select),
        read(server, EXAMPLE_APP, Some(key_file), "first"),
    ]
}

//! The settings of a service: file < environment < flag.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anabranch_bridge::BridgeConfig;
use anabranch_cdc::CdcConfig;
use anabranch_ingest::{IngestConfig, Operators};
use anabranch_journal::kafka::KafkaConfig;
use anabranch_runtime::config::{self, Layers};
use anabranch_runtime::tls::{CertificateFiles, TlsFiles};
use anabranch_schemas::topics::ClusterName;
use anabranch_store_node::StoreNodeConfig;
use anyhow::Result;
use clap::CommandFactory;
use serde::{Deserialize, Serialize};

use crate::client::KEY_VARIABLES;
use crate::failure::Failure;
use crate::key_file;
use crate::output::print;

/// What the names of our environment variables start with.
const PREFIX: &str = "ANABRANCH_";

/// What names of variables start with that belong to scripts and tests.
const RESERVED: &str = "ANABRANCH_TEST_";

/// The name that Kafka's own setting has for its address.
const BOOTSTRAP: &str = "bootstrap.servers";

/// Settings of the services. One file can have those of all services of a cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    /// The cluster's name.
    pub(crate) cluster: Option<ClusterName>,
    /// Into how many slices the keyspace of a new cluster is cut: a power of two.
    pub(crate) slices: u16,
    /// Where ingest serves its HTTP API.
    pub(crate) listen: SocketAddr,
    /// Where the service is asked for health, metrics and status.
    pub(crate) listen_admin: SocketAddr,
    /// What both of them show: with a certificate they speak TLS and nothing else, an admin address
    /// on the loopback excepted. It is read again each minute, for others renew it.
    pub(crate) https: Option<CertificateFiles>,
    /// The file with the key that those show who declare resources at the address of ingest for that;
    /// it is made if it is not there. Without one nobody can.
    pub(crate) admin_key_file: Option<PathBuf>,
    /// `host:port` of the store nodes for the services that ask them, any of which will do, with
    /// commas between; without it they are those that the cluster's configuration has.
    pub(crate) store_node_address: Option<String>,
    /// With these the store nodes are asked over TLS.
    pub(crate) store_node_tls: Option<TlsFiles>,
    /// Where `anabranch dev` keeps everything.
    pub(crate) data_dir: Option<PathBuf>,
    /// How logs are written.
    pub(crate) log_format: LogFormat,
    /// How long a shutdown may take, in milliseconds.
    pub(crate) shutdown_timeout_ms: u64,
    /// How long the log keeps rounds and changes, in milliseconds; 0 for ever. What it forgets is
    /// on the disk of one store node and nowhere else, as long as there is only one.
    pub(crate) retention_ms: u64,
    /// Copies of each partition of the topics; -1 is the brokers' default.
    pub(crate) replication_factor: i32,
    /// Properties of librdkafka; `bootstrap.servers` is the address.
    pub(crate) kafka: BTreeMap<String, String>,
    pub(crate) ingest: IngestConfig,
    pub(crate) store_node: StoreNodeConfig,
    pub(crate) cdc: CdcConfig,
    pub(crate) bridge: BridgeConfig,
}

/// How logs are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines, an object a line.
    Json,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            cluster: None,
            slices: 16,
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            listen_admin: SocketAddr::from((Ipv4Addr::LOCALHOST, 8081)),
            https: None,
            admin_key_file: None,
            store_node_address: None,
            store_node_tls: None,
            data_dir: None,
            log_format: LogFormat::Text,
            shutdown_timeout_ms: 30_000,
            retention_ms: 0,
            replication_factor: -1,
            kafka: BTreeMap::new(),
            ingest: IngestConfig::default(),
            store_node: StoreNodeConfig::default(),
            cdc: CdcConfig::default(),
            bridge: BridgeConfig::default(),
        }
    }
}

impl Settings {
    pub(crate) fn shutdown_timeout(&self) -> Duration {
        Duration::from_millis(self.shutdown_timeout_ms)
    }

    /// Who may declare resources.
    pub(crate) fn operators(&self) -> Result<Operators> {
        Ok(match &self.admin_key_file {
            Some(file) => Operators::Holding(key_file::read_or_make(file, &"admin".parse()?)?),
            None => Operators::Nobody,
        })
    }

    /// The cluster's name, which must be set.
    pub(crate) fn cluster(&self) -> Result<ClusterName> {
        self.cluster.clone().ok_or_else(|| {
            Failure::usage("no cluster is named").with_hint("say which with --cluster").into()
        })
    }

    /// How to reach Kafka.
    pub(crate) fn kafka(&self, client_id: &str) -> Result<KafkaConfig> {
        let mut properties = self.kafka.clone();
        let address = properties.remove(BOOTSTRAP).ok_or_else(|| {
            Failure::usage("no Kafka is named").with_hint("say where it is with --kafka HOST:PORT")
        })?;
        let client_id = properties.remove("client.id").unwrap_or_else(|| client_id.to_owned());
        let mut config = KafkaConfig::new(address, client_id);
        config.properties = properties;
        config.replication_factor = self.replication_factor;
        Ok(config)
    }
}

/// Flags of every command that has settings.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Settings")]
pub(crate) struct SettingsFlags {
    /// A TOML file of settings; '--dump-config' shows their names. What the environment says
    /// (ANABRANCH_LISTEN, ANABRANCH_INGEST__MAX_BODY_BYTES) goes over it, what flags say over both.
    #[arg(long, value_name = "FILE", env = "ANABRANCH_CONFIG")]
    config: Option<PathBuf>,
    /// Print the effective settings, secrets masked, and end.
    #[arg(long)]
    dump_config: bool,
    /// 'text' or 'json'.
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Where to serve health, metrics and status [default: 127.0.0.1:8081].
    #[arg(long, value_name = "ADDRESS")]
    listen_admin: Option<String>,
    /// The certificate of the HTTP API and the admin address, followed by those that lead to its
    /// authority. With it they speak TLS only; an admin address on the loopback stays plain.
    #[arg(long, value_name = "FILE")]
    https_certificate: Option<String>,
    /// The private key of that certificate.
    #[arg(long, value_name = "FILE")]
    https_key: Option<String>,
}

/// Flags of every service on Kafka.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct KafkaFlags {
    /// Kafka's brokers to ask first, separated by commas.
    #[arg(long, value_name = "HOST:PORT")]
    kafka: Option<String>,
    /// A property of librdkafka, such as security.protocol=SASL_SSL; repeat it for several.
    #[arg(long = "kafka-property", value_name = "NAME=VALUE")]
    properties: Vec<String>,
    /// The cluster's name: the first part of the names of its topics.
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    /// Into how many slices the keyspace of a new cluster is cut [default: 16].
    #[arg(long, value_name = "COUNT")]
    slices: Option<String>,
    /// Copies of each partition of topics made here [default: the brokers' default].
    #[arg(long, value_name = "COUNT")]
    replication_factor: Option<String>,
}

/// Flags of the services that ask the store node.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct StoreFlags {
    /// The store nodes of the cluster, any of which is asked; with commas between [default: those
    /// that its resource Cluster declares, else 127.0.0.1:7070].
    #[arg(long, value_name = "HOST:PORT")]
    store_node: Option<String>,
}

/// Flags of whatever has a bridge.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct TlsFlags {
    /// The bridge's certificate, made with 'anabranch ca issue'.
    #[arg(long, value_name = "FILE")]
    tls_certificate: Option<String>,
    /// The certificate's private key.
    #[arg(long, value_name = "FILE")]
    tls_key: Option<String>,
    /// The authority of a cluster that is trusted, its ca.pem; repeat it for several.
    #[arg(long, value_name = "FILE")]
    tls_trusted_ca: Vec<String>,
}

/// Settings as they are put together.
pub(crate) struct Builder {
    layers: Layers,
    dump: bool,
}

impl Builder {
    /// With what the file and the environment say, and the flags that all have.
    pub(crate) fn new(flags: SettingsFlags) -> Result<Self> {
        let SettingsFlags {
            config,
            dump_config,
            log_format,
            listen_admin,
            https_certificate,
            https_key,
        } = flags;
        let mut layers = Layers::new().properties("kafka", BOOTSTRAP);
        if let Some(path) = config {
            layers = layers.file(&path).map_err(|error| wrong(&error))?;
        }
        // A variable that is not UTF-8 cannot be a setting.
        let variables = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        let variables = variables.filter(|(name, _)| !name.starts_with(RESERVED));
        let mut flags = flag_variables(&crate::Cli::command());
        flags.extend(KEY_VARIABLES.map(str::to_owned));
        let flags: Vec<_> = flags.iter().filter_map(|name| name.strip_prefix(PREFIX)).collect();
        let layers = layers.environment(PREFIX, &flags, variables);
        Ok(Builder { layers, dump: dump_config }
            .flag("--log-format", &["log_format"], log_format)
            .flag("--listen-admin", &["listen_admin"], listen_admin)
            .flag("--https-certificate", &["https", "certificate"], https_certificate)
            .flag("--https-key", &["https", "key"], https_key))
    }

    /// Adds a flag, if it is given.
    pub(crate) fn flag(mut self, flag: &str, path: &[&str], value: Option<String>) -> Self {
        if let Some(value) = value {
            self.layers = self.layers.flag(flag, path, value);
        }
        self
    }

    /// Adds the flags of services on Kafka.
    pub(crate) fn kafka(mut self, flags: KafkaFlags) -> Result<Self> {
        let KafkaFlags { kafka, properties, cluster, slices, replication_factor } = flags;
        for property in properties {
            let (name, value) = property.split_once('=').ok_or_else(|| {
                Failure::usage(format!("--kafka-property '{property}' is not NAME=VALUE"))
            })?;
            self = self.flag("--kafka-property", &["kafka", name], Some(value.to_owned()));
        }
        Ok(self
            .flag("--kafka", &["kafka", BOOTSTRAP], kafka)
            .flag("--cluster", &["cluster"], cluster)
            .flag("--slices", &["slices"], slices)
            .flag("--replication-factor", &["replication_factor"], replication_factor))
    }

    /// Adds the flags of services that ask the store node.
    pub(crate) fn store(self, flags: StoreFlags) -> Self {
        let StoreFlags { store_node } = flags;
        self.flag("--store-node", &["store_node_address"], store_node)
    }

    /// Adds the flags of whatever has a bridge.
    pub(crate) fn tls(mut self, flags: TlsFlags) -> Self {
        let TlsFlags { tls_certificate, tls_key, tls_trusted_ca } = flags;
        if !tls_trusted_ca.is_empty() {
            let path = ["bridge", "tls", "trusted"];
            self.layers = self.layers.flags("--tls-trusted-ca", &path, tls_trusted_ca);
        }
        self.flag("--tls-certificate", &["bridge", "tls", "certificate"], tls_certificate).flag(
            "--tls-key",
            &["bridge", "tls", "key"],
            tls_key,
        )
    }

    /// The settings; `None` if they were only to be shown, which is done.
    pub(crate) fn finish(self) -> Result<Option<Settings>> {
        let settings: Settings = self.layers.load().map_err(|error| wrong(&error))?;
        if self.dump {
            print(config::dump(&settings)?.trim_end())?;
            return Ok(None);
        }
        Ok(Some(settings))
    }
}

/// The variables that stand for a flag of some command: no settings.
fn flag_variables(command: &clap::Command) -> BTreeSet<String> {
    let own = command.get_arguments().filter_map(|flag| flag.get_env()?.to_str());
    let below = command.get_subcommands().flat_map(flag_variables);
    own.map(str::to_owned).chain(below).collect()
}

fn wrong(error: &config::ConfigError) -> Failure {
    Failure::usage(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_flags_are_found_in_every_command() {
        let found = flag_variables(&crate::Cli::command());
        let names = ["ADMIN_SERVER", "APP", "CA_FILE", "CONFIG", "SERVER"];
        assert_eq!(found, names.map(|name| format!("{PREFIX}{name}")).into());
    }
}

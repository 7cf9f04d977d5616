//! A store node over an embedded log, asked over gRPC as its clients do.

#![allow(dead_code)] // each test binary uses a part of it

pub mod cluster;
pub mod flaky;
pub mod indexes;
pub mod log;
pub mod model;

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::Value;
use anabranch_core::cluster::Configuration;
use anabranch_core::document::Mutation;
use anabranch_core::ids::{DocumentId, TxnId};
use anabranch_core::query::{FieldPath, OnConflict};
use anabranch_journal::Journal;
use anabranch_journal::embedded::{EmbeddedConfig, EmbeddedJournal};
use anabranch_runtime::admin::Readiness;
use anabranch_runtime::grpc;
use anabranch_runtime::tasks::{Shutdown, Tasks};
use anabranch_runtime::tls::TlsFiles;
use anabranch_schemas::store as proto;
use anabranch_schemas::store::store_node_client::StoreNodeClient;
use anabranch_store_node::{Configurations, StoreNodeConfig, run};
use tokio::sync::watch;

/// How long something that has to happen may take.
pub const PATIENCE: Duration = Duration::from_secs(60);
pub const PATIENCE_MS: u32 = 60_000;

/// Waits for a condition.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let holds = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    within(what, holds).await;
}

/// What a future gives, if it does so in time.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what}: too late"))
}

/// An embedded log that does not wait for the disk.
pub fn journal(path: &Path) -> Arc<dyn Journal> {
    let mut config = EmbeddedConfig::new(path);
    config.sync = false;
    EmbeddedJournal::open(config).unwrap()
}

/// Settings with small buffers.
pub fn config(data_dir: &Path) -> StoreNodeConfig {
    StoreNodeConfig {
        data_dir: data_dir.to_owned(),
        listen: ([127, 0, 0, 1], 0).into(),
        write_buffer_bytes: 256 << 10,
        block_cache_bytes: 1 << 20,
        ..StoreNodeConfig::default()
    }
}

/// A node that runs.
pub struct Node {
    pub client: StoreNodeClient<grpc::Transport>,
    pub readiness: Readiness,
    pub address: String,
    configurations: watch::Sender<Option<Configuration>>,
    tasks: Tasks,
}

impl Node {
    /// Starts a node.
    pub async fn start(config: StoreNodeConfig, journal: Arc<dyn Journal>) -> Self {
        Self::start_with(config, journal, None).await
    }

    /// Starts a node that is asked over TLS.
    pub async fn start_with(
        config: StoreNodeConfig,
        journal: Arc<dyn Journal>,
        tls: Option<&TlsFiles>,
    ) -> Self {
        Self::start_in(None, config, journal, tls).await
    }

    /// Starts a node of a cluster.
    pub async fn start_in(
        configuration: Option<Configuration>,
        config: StoreNodeConfig,
        journal: Arc<dyn Journal>,
        tls: Option<&TlsFiles>,
    ) -> Self {
        let readiness = Readiness::new();
        let tasks = Tasks::new(Shutdown::new());
        let ready = readiness.register("store node");
        let (configurations, declared) = watch::channel(configuration);
        let started = run(config, log::identity(), declared, journal, &tasks, ready);
        let running = started.await.unwrap();
        // The certificates of tests are for this name.
        let host = if tls.is_some() { "localhost" } else { "127.0.0.1" };
        let address = format!("{host}:{}", running.address.port());
        let client = client(&address, tls);
        Node { client, readiness, address, configurations, tasks }
    }

    /// Tells it of a configuration while it runs.
    pub fn configure(&self, configuration: Configuration) {
        self.configurations.send_replace(Some(configuration));
    }

    /// Waits until it is ready.
    pub async fn ready(&self) {
        until("the node is ready", || self.readiness.not_ready().is_empty()).await;
    }

    /// Why it is not ready.
    pub fn trouble(&self) -> String {
        self.readiness.not_ready().first().map(|(_, why)| why.clone()).unwrap_or_default()
    }

    /// Stops it in order.
    pub async fn stop(self) {
        self.tasks.shutdown().begin();
        self.tasks.join(PATIENCE).await.unwrap();
    }

    /// Why it has ended by itself.
    pub async fn failure(self) -> String {
        self.tasks.join(PATIENCE).await.unwrap_err().to_string()
    }

    /// A document at a timestamp: its value and who wrote it.
    pub async fn get(
        &self,
        id: &DocumentId,
        at: proto::ReadAt,
    ) -> Result<proto::GetReply, tonic::Status> {
        let (document_id, readable) = (id.to_bytes().into(), String::new());
        let request = proto::GetRequest { document_id, at: Some(at), readable };
        self.client.clone().get(request).await.map(tonic::Response::into_inner)
    }

    /// A document at least at a transaction, as JSON.
    pub async fn read(&self, id: &DocumentId, at_least: TxnId) -> Option<Value> {
        let reply = self.get(id, at(at_least)).await.unwrap();
        reply.document.map(|document| Value::from_json(document.as_bytes()).unwrap())
    }

    /// What a SELECT returns.
    pub async fn query(
        &self,
        statement: &str,
        args: &str,
        at: proto::ReadAt,
    ) -> Result<Vec<proto::QueryReply>, tonic::Status> {
        let request = proto::QueryRequest {
            after: bytes::Bytes::new(),
            app: log::APP.0.as_bytes().to_vec().into(),
            statement: statement.to_owned(),
            args: args.to_owned(),
            at: Some(at),
            readable: String::new(),
            most: None,
        };
        let mut stream = self.client.clone().query(request).await?.into_inner();
        let mut replies = Vec::new();
        while let Some(reply) = stream.message().await? {
            replies.push(reply);
        }
        Ok(replies)
    }

    /// Everything the feed has of some slices below `until`.
    pub async fn feed(&self, slices: &[u32], from: TxnId, until: TxnId) -> Vec<proto::FeedReply> {
        let request = proto::FeedRequest { slices: slices.to_vec(), from: from.0, has_part: false };
        let mut stream = self.client.clone().feed(request).await.unwrap().into_inner();
        let mut replies: Vec<proto::FeedReply> = Vec::new();
        while replies.last().is_none_or(|reply| reply.next < until.0) {
            let reply = within("the feed goes on", stream.message()).await.unwrap();
            replies.push(reply.expect("a feed never ends"));
        }
        replies
    }
}

/// A configuration that does not change.
pub fn declared(configuration: Option<Configuration>) -> Configurations {
    watch::channel(configuration).1
}

/// A client of a node.
pub fn client(address: &str, tls: Option<&TlsFiles>) -> StoreNodeClient<grpc::Transport> {
    let channel = grpc::channel(address, tls).unwrap();
    StoreNodeClient::new(channel).max_decoding_message_size(64 << 20)
}

/// The stable code of an error.
pub fn code(status: &tonic::Status) -> &str {
    grpc::code_of(status).expect("an error of a store node has a code")
}

/// At least at a transaction.
pub fn at(at_least: TxnId) -> proto::ReadAt {
    proto::ReadAt { at_least: Some(at_least.0), exactly: None, wait_ms: PATIENCE_MS }
}

/// Exactly at a transaction.
pub fn exactly(txn: TxnId) -> proto::ReadAt {
    proto::ReadAt { at_least: None, exactly: Some(txn.0), wait_ms: PATIENCE_MS }
}

pub fn json(text: &str) -> Value {
    Value::from_json(text.as_bytes()).unwrap()
}

pub fn insert(fields: &str, on_conflict: OnConflict) -> Mutation {
    Mutation::Insert { fields: json(fields), on_conflict }
}

pub fn put(fields: &str) -> Mutation {
    insert(fields, OnConflict::DoUpdate)
}

pub fn increment(field: &str, by: i64) -> Mutation {
    let path = FieldPath::new(vec![field.to_owned()]).unwrap();
    Mutation::Update { set: vec![], unset: vec![], increment: vec![(path, by)] }
}

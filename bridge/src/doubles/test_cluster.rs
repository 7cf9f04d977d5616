//! A cluster on an embedded log, with doubles of everything but the bridge.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use uuid::Uuid;

use anabranch_core::Value;
use anabranch_core::document::Mutation;
use anabranch_core::ids::{DocumentId, DocumentKey, RoundId};
use anabranch_core::keyspace::SliceCount;
use anabranch_core::query::OnConflict;
use anabranch_journal::embedded::EmbeddedJournal;
use anabranch_journal::metadata::{ClusterIdentity, MetadataStore};
use anabranch_journal::rounds::{HlcClock, Round, RoundAppender};
use anabranch_journal::{Journal, RotatingWriter, TransactionalId};
use anabranch_runtime::admin::Readiness;
use anabranch_runtime::grpc::AnyOf;
use anabranch_runtime::tasks::{Shutdown, Tasks};
use anabranch_runtime::tls::TlsFiles;
use anabranch_schemas::records::DocumentMutation;
use anabranch_schemas::resources::{ReplicationSpec, Resource};
use anabranch_schemas::store::ScanRequest;
use anabranch_schemas::store::store_node_server::StoreNodeServer;

use super::cluster::{APP, Cluster};
use super::log::embedded_log;
use super::node::{Node, follow};
use crate::{Bridge, BridgeConfig, Error, ReplicationStatus, run};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until a condition holds.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A cluster.
pub(crate) struct TestCluster {
    pub(crate) journal: Arc<EmbeddedJournal>,
    pub(crate) identity: ClusterIdentity,
    node: Node,
    store_node: String,
    appender: RoundAppender,
    metadata: MetadataStore,
    tasks: Tasks,
    _dir: TempDir,
}

impl TestCluster {
    /// A new cluster.
    pub(crate) async fn start(name: &str, actor: u128) -> Self {
        let cluster = Cluster::new(actor, 4);
        let identity = ClusterIdentity {
            name: name.parse().unwrap(),
            actor: cluster.actor,
            slices: SliceCount::try_from(4).unwrap(),
            created_ms: 0,
        };
        let (journal, dir) = embedded_log(&identity.name, identity.slices);
        let node = Node {
            cluster: Arc::new(Mutex::new(cluster)),
            scans: Arc::default(),
            oldest_readable: Arc::new(AtomicU64::new(0)),
            is_away: Arc::new(AtomicBool::new(false)),
        };
        let tasks = Tasks::new(Shutdown::new());
        let (following, log) = (node.clone(), journal.clone());
        let (name, shutdown) = (identity.name.clone(), tasks.shutdown().clone());
        tasks.spawn_thread("apply", move || {
            follow(&following, &*log, &name, &shutdown);
            Ok(())
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let store_node = listener.local_addr().unwrap().to_string();
        let (service, shutdown) = (StoreNodeServer::new(node.clone()), tasks.shutdown().clone());
        tasks.spawn("store", async move {
            let serving = Server::builder().add_service(service);
            let until = async move { shutdown.begun().await };
            serving.serve_with_incoming_shutdown(TcpIncoming::from(listener), until).await?;
            Ok(())
        });
        let clock = Arc::new(HlcClock::system());
        let appender = RoundAppender::new(&identity.name, identity.actor, identity.slices, clock);
        let metadata = MetadataStore::open(journal.clone(), &identity.name).unwrap();
        TestCluster { journal, identity, node, store_node, appender, metadata, tasks, _dir: dir }
    }

    /// Writes one round into the log.
    pub(crate) fn write(&self, mutations: Vec<DocumentMutation>) {
        let journal: Arc<dyn Journal> = self.journal.clone();
        let mut writer = RotatingWriter::open(&journal, &TransactionalId::from("clients")).unwrap();
        let id = RoundId(Uuid::now_v7());
        let round = Round {
            id,
            app: APP,
            origin: None,
            digest: Vec::new(),
            atomic: false,
            mutations,
            restrictions: Vec::new(),
        };
        writer.transaction(|writer| self.appender.append(writer, &[round])).unwrap();
    }

    /// Inserts or updates a document of collection `c`.
    pub(crate) fn put(&self, key: i64, fields: &str) {
        self.write(vec![put(key, fields)]);
    }

    /// The documents that a reader sees, by `_id`.
    pub(crate) fn documents(&self) -> BTreeMap<String, Value> {
        let cluster = self.node.cluster.lock().unwrap();
        let ids: Vec<DocumentId> = cluster.versions.keys().cloned().collect();
        ids.iter().filter_map(|id| Some((id.key.to_string(), cluster.value(id)?))).collect()
    }

    /// One of them, as JSON.
    pub(crate) fn document(&self, key: i64) -> Option<String> {
        self.documents().get(&key.to_string()).map(Value::to_json)
    }

    /// How many rounds its log has.
    pub(crate) fn rounds(&self) -> usize {
        self.node.cluster.lock().unwrap().log.len()
    }

    /// The scans that its store node was asked for.
    pub(crate) fn scans(&self) -> Vec<ScanRequest> {
        self.node.scans.lock().unwrap().clone()
    }

    /// From now on its store node reads only as of now or later.
    pub(crate) fn forget_history(&self) {
        let end = self.node.cluster.lock().unwrap().end();
        self.node.oldest_readable.store(end.0.saturating_sub(1), Ordering::Relaxed);
    }

    /// From now on its store node does not answer scans, or does again.
    pub(crate) fn store_is_away(&self, is_away: bool) {
        self.node.is_away.store(is_away, Ordering::Relaxed);
    }

    /// Declares what it wants of another cluster; `None` removes it.
    pub(crate) fn declare(&self, name: &str, spec: Option<ReplicationSpec>) {
        let declared = spec.is_some();
        let (name, spec) = (name.parse().unwrap(), spec.unwrap_or_default());
        let resource = Resource::Replication { app: APP, name, spec };
        let key = resource.id().key();
        let version = self.metadata.get(&key).unwrap().map(|entry| entry.version);
        let value = declared.then(|| resource.to_json());
        self.metadata.compare_and_set(&key, version, value).unwrap();
    }

    /// Starts its bridge.
    pub(crate) async fn bridge(&self, tls: TlsFiles) -> Result<TestBridge, Error> {
        self.bridge_on(self.journal.clone(), tls).await
    }

    /// Starts its bridge on a journal that stands for its own.
    pub(crate) async fn bridge_on(
        &self,
        journal: Arc<dyn Journal>,
        tls: TlsFiles,
    ) -> Result<TestBridge, Error> {
        let config = BridgeConfig {
            listen: "127.0.0.1:0".parse().unwrap(),
            tls: Some(tls),
            ..BridgeConfig::default()
        };
        let tasks = Tasks::new(Shutdown::new());
        let ready = Readiness::new().register("bridge");
        let identity = self.identity.clone();
        let bridge = run(
            config,
            identity,
            AnyOf::new(&self.store_node, None).unwrap(),
            journal,
            &tasks,
            ready,
        )
        .await?;
        Ok(TestBridge { bridge, tasks })
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        self.tasks.shutdown().begin();
    }
}

/// An insert or update of a document of collection `c`.
pub(crate) fn put(key: i64, fields: &str) -> DocumentMutation {
    mutation(
        key,
        Mutation::Insert {
            fields: Value::from_json(fields.as_bytes()).unwrap(),
            on_conflict: OnConflict::DoUpdate,
        },
    )
}

/// A mutation of a document of collection `c`.
pub(crate) fn mutation(key: i64, mutation: Mutation) -> DocumentMutation {
    let key = DocumentKey::from_value(&Value::Int(key)).unwrap();
    DocumentMutation::new("c".parse().unwrap(), key, mutation)
}

/// A bridge that runs.
pub(crate) struct TestBridge {
    pub(crate) bridge: Bridge,
    tasks: Tasks,
}

impl TestBridge {
    /// The status of one of its replications.
    pub(crate) fn status(&self, name: &str) -> ReplicationStatus {
        let all = self.bridge.status.all();
        all.get(&(APP, name.parse().unwrap())).cloned().unwrap_or_default()
    }

    /// What a replication failed with last.
    pub(crate) fn last_error(&self, name: &str) -> String {
        self.status(name).last_error.unwrap_or_default()
    }

    /// Stops it, in order.
    pub(crate) async fn stop(self) {
        self.tasks.shutdown().begin();
        self.tasks.clone().join(PATIENCE).await.unwrap();
    }
}

impl Drop for TestBridge {
    fn drop(&mut self) {
        self.tasks.shutdown().begin();
    }
}

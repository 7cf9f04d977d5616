//! Clients that read: each answer has to be exactly what the log says at its timestamp (ST-4), and
//! at least as new as what the client has seen.

use std::collections::BTreeMap;
use std::sync::Arc;

use anabranch_core::Value;
use anabranch_core::ids::TxnId;
use anabranch_core::keyspace::Slice;
use anabranch_runtime::grpc::{self, AnyOf};
use anabranch_schemas::store as proto;
use anabranch_schemas::store::store_node_client::StoreNodeClient;
use tonic::Status;

use crate::cluster::{Cluster, pause};
use crate::dice::Dice;
use crate::writers::{APP, COLLECTION, DOCUMENTS, document};

/// A client that reads.
pub(crate) struct ReaderClient {
    cluster: Arc<Cluster>,
    dice: Dice,
    name: String,
    client: StoreNodeClient<AnyOf>,
    /// The newest timestamp that it has seen.
    token: Option<TxnId>,
    /// How many reads were answered.
    pub(crate) answered: u64,
}

impl ReaderClient {
    pub(crate) fn new(cluster: Arc<Cluster>, number: usize) -> Self {
        let name = format!("reader-{number}");
        let nodes = AnyOf::new(&cluster.addresses(&name), None).expect("these are addresses");
        let client = StoreNodeClient::new(nodes);
        let dice = Dice::new(cluster.world.number());
        ReaderClient { cluster, dice, name, client, token: None, answered: 0 }
    }

    /// Reads for some time, in milliseconds.
    pub(crate) async fn run(mut self, until_ms: u64) -> Self {
        while self.cluster.world.elapsed_ms() < until_ms && self.cluster.violation().is_none() {
            pause(1 + self.dice.below(120)).await;
            // Sometimes it has seen what was just written.
            if self.dice.once_in(3) {
                self.token = self.cluster.model.lock().last();
            }
            let at_least = self.token.filter(|_| self.dice.below(2) == 0).map(|txn| txn.0);
            let at = proto::ReadAt { at_least, exactly: None, wait_ms: 1_000 };
            let read = match self.dice.below(2) {
                0 => self.get(at).await,
                _ => self.scan(at).await,
            };
            match read {
                Ok(()) => self.answered += 1,
                Err(status) => self.failed(&status),
            }
        }
        self
    }

    fn failed(&self, status: &Status) {
        let code = grpc::code_of(status).unwrap_or("none").to_owned();
        self.cluster.tell(&format!("{} is refused: {code}: {}", self.name, status.message()));
        // What is stable can be read, wherever nothing fails.
        let is_starting = code == "catching_up";
        if self.cluster.mix.reads_succeed && !is_starting {
            self.cluster.violate(&format!("ST-4: a read fails: {code}: {}", status.message()));
        }
    }

    async fn get(&mut self, at: proto::ReadAt) -> Result<(), Status> {
        let stable = self.cluster.stable_everywhere();
        let id = document(self.dice.below(DOCUMENTS));
        let (document_id, readable) = (id.to_bytes().into(), String::new());
        let request = proto::GetRequest { document_id, at: Some(at), readable };
        let reply = self.client.get(request).await?.into_inner();
        let found = reply
            .document
            .map(|json| Value::from_json(json.as_bytes()).expect("a document is JSON"));
        let Some(txn) = self.check_timestamp(&at, reply.txn) else {
            self.check_is_nothing(stable);
            return Ok(());
        };
        self.check_is_read([self.cluster.identity.slices.slice_of(id.position())], txn);
        let model = self.cluster.model.lock();
        let wrong = !model.may_be_seen(&id, txn, found.as_ref());
        let wrong = wrong.then(|| model.seen(&id, txn));
        drop(model);
        if let Some(expected) = wrong {
            self.cluster.violate(&format!(
                "ST-4: {} reads {found:?} at {txn}, of document {}, which is {expected:?}",
                self.name,
                id.key.as_str()
            ));
        }
        Ok(())
    }

    async fn scan(&mut self, at: proto::ReadAt) -> Result<(), Status> {
        let stable = self.cluster.stable_everywhere().max(at.at_least.map(TxnId));
        let request = proto::ScanRequest {
            app: APP.0.as_bytes().to_vec().into(),
            collection: COLLECTION.to_owned(),
            at: Some(at),
            after: Default::default(),
        };
        let mut replies = self.client.scan(request).await?.into_inner();
        let (mut txn, mut found) = (None, BTreeMap::new());
        while let Some(reply) = replies.message().await? {
            txn = reply.txn;
            let items = reply.items.into_iter();
            found.extend(items.map(|item| (item.document_id.to_vec(), item.state.to_vec())));
        }
        // Without an item nobody says which timestamp it was.
        if found.is_empty() {
            self.check_is_nothing(stable);
            return Ok(());
        }
        let Some(txn) = self.check_timestamp(&at, txn) else { return Ok(()) };
        self.check_is_read(self.cluster.identity.slices.all(), txn);
        let model = self.cluster.model.lock();
        let wrong = (!model.may_be(&found, txn, |_| true)).then(|| model.documents(txn, |_| true));
        drop(model);
        if let Some(expected) = wrong {
            self.cluster.violate(&format!(
                "ST-4: {} scans {} at {txn}, and the log says {}",
                self.name,
                told(&found),
                told(&expected)
            ));
        }
        Ok(())
    }

    /// The timestamp of an answer, which is as new as was asked for.
    fn check_timestamp(&mut self, at: &proto::ReadAt, txn: Option<u64>) -> Option<TxnId> {
        let txn = txn.map(TxnId);
        self.cluster.follow();
        self.cluster.tell(&format!("{} reads at {txn:?}", self.name));
        if at.at_least.is_some_and(|least| txn.is_none_or(|txn| txn.0 < least)) {
            let least = at.at_least;
            self.cluster.violate(&format!("ST-4: {} reads at {txn:?}, not {least:?}", self.name));
        }
        self.token = self.token.max(txn);
        txn
    }

    /// Whoever is told nothing at all reads before the first document, or once all are forgotten.
    fn check_is_nothing(&self, stable: Option<TxnId>) {
        self.cluster.follow();
        let model = self.cluster.model.lock();
        let is_nothing = stable.is_none_or(|stable| model.may_be_empty_from(stable));
        drop(model);
        if !is_nothing {
            self.cluster.violate(&format!("ST-4: {} reads nothing past {stable:?}", self.name));
        }
    }

    /// Nobody can have read yet what is written into these slices by somebody who is not done.
    fn check_is_read(&self, slices: impl IntoIterator<Item = Slice>, txn: TxnId) {
        let unread = self.cluster.model.lock().unread(slices);
        if let Some(unread) = unread.filter(|unread| txn >= *unread) {
            self.cluster.violate(&format!("ST-4: {} reads at {txn}: {unread} is open", self.name));
        }
    }
}

/// Documents, in few words.
pub(crate) fn told(documents: &BTreeMap<Vec<u8>, Vec<u8>>) -> String {
    let told: Vec<_> = documents
        .iter()
        .map(|(id, state)| {
            let id = anabranch_core::ids::DocumentId::from_bytes(id);
            let key = id.map(|id| id.key.as_str().to_owned()).unwrap_or_default();
            let value =
                anabranch_schemas::state::decode(state).ok().and_then(|found| found.value());
            format!("{key}: {}", value.map_or("deleted".to_owned(), |value| value.to_json()))
        })
        .collect();
    told.join(", ")
}

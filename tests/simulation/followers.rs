//! Clients that follow live queries: whatever dies, and wherever they go on, after each event their
//! rows are what the log says as of its transaction (ST-4), of which nothing is left out (IN-2). Who
//! stays hears how it ends, and so does who comes back then.

use std::sync::Arc;
use std::time::Duration;

use anabranch_core::ids::TxnId;
use anabranch_tests::followed::{Followed, Heard};
use axum::body::Body;
use axum::http::{Request, StatusCode};
use serde_json::{Value as Json, json};
use tokio::time::timeout;

use crate::cluster::{Cluster, pause};
use crate::dice::Dice;
use crate::servers::Streaming;
use crate::writers::{APP, COLLECTION};

/// How long it may take until a server lets somebody follow once all is well, in milliseconds.
const PATIENCE_MS: u64 = 60_000;
/// How long nothing more comes of what is there already, in milliseconds.
const QUIET_MS: u64 = 300;

/// Why a live query may end: it may go on elsewhere, or later.
const PASSING: [&str; 4] =
    ["shutting_down", "store_unavailable", "timestamp_not_reached", "overloaded"];

/// Somebody who follows a live query.
pub(crate) struct Follower {
    cluster: Arc<Cluster>,
    dice: Dice,
    name: String,
    /// Which server is asked next.
    server: usize,
    query: Query,
    followed: Followed,
    stream: Option<Streaming>,
    /// A line of which more is to come.
    line: Vec<u8>,
    /// How many events came.
    pub(crate) heard: u64,
}

/// What is followed.
#[derive(Clone, Copy, Debug)]
enum Query {
    All,
    /// Documents with `a` above this.
    Above(i64),
    /// The documents with the largest `a`.
    Largest,
    /// Their number, and the largest `a`.
    Counted,
}

/// How many are the largest.
const LARGEST: usize = 4;

impl Query {
    fn statement(self) -> String {
        match self {
            Query::All => format!("SELECT * FROM {COLLECTION}"),
            Query::Above(least) => format!("SELECT * FROM {COLLECTION} WHERE a > {least}"),
            Query::Largest => {
                format!("SELECT _id, a, b FROM {COLLECTION} ORDER BY a DESC, _id LIMIT {LARGEST}")
            }
            Query::Counted => format!("SELECT COUNT(*) AS n, MAX(a) AS most FROM {COLLECTION}"),
        }
    }

    /// The rows of these documents.
    fn rows(self, mut documents: Vec<Json>) -> Vec<Json> {
        match self {
            Query::All | Query::Above(_) => {
                documents.sort_by_key(|document| document["_id"].to_string());
            }
            Query::Largest | Query::Counted => documents.sort_by_key(|document| {
                let [a, id] = ["a", "_id"].map(|field| document[field].as_i64());
                (std::cmp::Reverse(a), id)
            }),
        }
        match self {
            Query::All => {}
            Query::Above(least) => documents.retain(|it| it["a"].as_i64() > Some(least)),
            Query::Largest => {
                documents.truncate(LARGEST);
                for document in documents.iter_mut().filter_map(Json::as_object_mut) {
                    document.retain(|field, _| ["_id", "a", "b"].contains(&field.as_str()));
                }
            }
            Query::Counted => {
                let most = documents.first().map_or(&Json::Null, |document| &document["a"]);
                return vec![json!({ "n": documents.len(), "most": most })];
            }
        }
        documents
    }
}

impl Follower {
    pub(crate) fn new(cluster: Arc<Cluster>, number: usize) -> Self {
        let mut dice = Dice::new(cluster.world.number());
        let least = i64::try_from(dice.below(1_500)).expect("a small one");
        let query =
            *dice.one_of(&[Query::All, Query::Above(least), Query::Largest, Query::Counted]);
        let name = format!("follower-{number}");
        Follower {
            cluster,
            dice,
            name,
            server: number,
            query,
            followed: Followed::default(),
            stream: None,
            line: Vec::new(),
            heard: 0,
        }
    }

    /// Follows for some time, in milliseconds.
    pub(crate) async fn run(mut self, until_ms: u64) -> Self {
        while self.cluster.world.elapsed_ms() < until_ms && self.cluster.violation().is_none() {
            if self.stream.is_none() && !self.connect(None).await {
                pause(10 + self.dice.below(100)).await;
                continue;
            }
            let patience = 1 + self.dice.below(100);
            self.listen(patience).await;
            if self.dice.once_in(12) {
                self.leave();
            }
        }
        self
    }

    /// When all is well it hears how it ended, where it is; and once more when it comes back.
    pub(crate) async fn end(mut self) -> Self {
        self.cluster.follow();
        let Some(last) = self.cluster.model.lock().last() else { return self };
        let began = self.cluster.world.elapsed_ms();
        let is_late = |follower: &Self| {
            follower.cluster.world.elapsed_ms() - began > PATIENCE_MS
                || follower.cluster.violation().is_some()
        };
        // How far it is is told after ten seconds only, which take a while to simulate.
        let stays = self.dice.once_in(8);
        while stays && self.stream.is_some() && self.followed.txn.map(TxnId) < Some(last) {
            self.listen(QUIET_MS).await;
            if is_late(&self) {
                self.violate("ST-4: it is told nothing any more");
                return self;
            }
        }
        self.leave();
        while !self.connect(Some(last)).await {
            if is_late(&self) {
                self.violate("ST-4: no server lets it follow once all is well");
                return self;
            }
            pause(100).await;
        }
        while self.stream.is_some() && self.listen(QUIET_MS).await {}
        // Others may have written meanwhile, but nobody does.
        self.check(Some(last));
        self
    }

    /// Whether a server lets it follow, from where it is.
    async fn connect(&mut self, seen: Option<TxnId>) -> bool {
        let encoded = |byte| format!("%{byte:02X}");
        let statement: String = self.query.statement().bytes().map(encoded).collect();
        let path = format!("/apps/{}/api/v1/store/subscribe?query={statement}", APP.0);
        let mut request = Request::get(path);
        if let Some(id) = self.followed.last_event_id() {
            request = request.header("last-event-id", id);
        }
        if let Some(TxnId(seen)) = seen {
            request = request.header("x-anabranch-txn-id", seen);
        }
        let servers = &self.cluster.servers;
        let server = &servers[self.server % servers.len()];
        self.server += 1;
        let opened = server.open(request.body(Body::empty()).expect("a request")).await;
        let (status, stream) = match opened {
            Some((status, stream)) => (Some(status), Some(stream)),
            None => (None, None),
        };
        let (name, id) = (&self.name, self.followed.last_event_id());
        self.cluster.tell(&format!("{name} comes to {} at {id:?}: {status:?}", server.name));
        self.stream = stream.filter(|_| status == Some(StatusCode::OK));
        let is_wrong = |status: StatusCode| {
            status.is_client_error() || status == StatusCode::INTERNAL_SERVER_ERROR
        };
        if status.is_some_and(is_wrong) {
            self.violate(&format!("ST-4: it may not follow {:?}: {status:?}", self.query));
        }
        self.stream.is_some()
    }

    fn leave(&mut self) {
        self.stream = None;
        self.line.clear();
        self.followed.disconnect();
    }

    /// Whether something came within so many milliseconds.
    async fn listen(&mut self, patience_ms: u64) -> bool {
        let Some(stream) = &mut self.stream else { return false };
        let coming = timeout(Duration::from_millis(patience_ms), stream.next());
        match coming.await {
            Ok(Some(piece)) => self.take(&piece),
            Ok(None) => self.leave(),
            Err(_late) => return false,
        }
        true
    }

    fn take(&mut self, piece: &[u8]) {
        for byte in piece {
            if *byte != b'\n' {
                self.line.push(*byte);
                continue;
            }
            let line = String::from_utf8(std::mem::take(&mut self.line)).expect("it is a text");
            match self.followed.take_line(&line) {
                Ok(Some(Heard::Rows | Heard::Progress)) => {
                    self.heard += 1;
                    self.check(self.followed.txn.map(TxnId));
                }
                Ok(Some(Heard::End(reason))) => {
                    self.cluster.tell(&format!("{}: {reason}", self.name));
                    if !PASSING.iter().any(|code| reason.contains(code)) {
                        self.violate(&format!("ST-4: a live query ends: {reason}"));
                    }
                }
                Ok(None) => {}
                Err(error) => self.violate(&format!("ST-4: {error:#}")),
            }
        }
    }

    /// Its rows are those of this transaction.
    fn check(&self, txn: Option<TxnId>) {
        self.cluster.follow();
        let documents = match txn {
            Some(txn) => self.cluster.model.lock().all_seen(txn),
            None => Vec::new(),
        };
        let documents = documents
            .iter()
            .map(|document| serde_json::from_str(&document.to_json()).expect("a document is JSON"));
        let expected = self.query.rows(documents.collect());
        let found: Vec<_> = self.followed.rows().cloned().collect();
        self.cluster.tell(&format!("{} has {} rows at {txn:?}", self.name, found.len()));
        if found != expected {
            let (found, expected) = (json!(found), json!(expected));
            let query = self.query;
            self.violate(&format!("ST-4: {query:?} at {txn:?} is {found}, not {expected}"));
        }
    }

    fn violate(&self, what: &str) {
        self.cluster.violate(&format!("{what} ({})", self.name));
    }
}

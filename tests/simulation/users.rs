//! Users: whatever happens to the servers they ask, what they were told is so.

use std::sync::Arc;

use anabranch_core::Value;
use anabranch_core::ids::{DocumentId, TxnId};
use axum::body::Body;
use axum::http::{Request, StatusCode};
use serde_json::{Value as Json, json};

use crate::cluster::{Cluster, pause};
use crate::dice::Dice;
use crate::writers::{APP, COLLECTION, DOCUMENTS, document};

/// Documents that only users write, and only to count.
const COUNTERS: std::ops::Range<u64> = DOCUMENTS..DOCUMENTS + 2;
/// One in which they count by what they have read.
const READ_COUNTER: u64 = COUNTERS.end;
/// One of which a field is a number or a text.
const TEXT: u64 = COUNTERS.end + 1;

/// How long a user waits to be told what came of a statement, in milliseconds.
const PATIENCE_MS: u64 = 60_000;

/// A user.
pub(crate) struct User {
    cluster: Arc<Cluster>,
    dice: Dice,
    name: String,
    number: u64,
    requests: u64,
    /// Which server is asked.
    server: usize,
    /// The newest transaction that was seen.
    seen: Option<TxnId>,
    /// What was done, as it was told.
    pub(crate) told: Told,
}

/// What users were told was done.
#[derive(Default)]
pub(crate) struct Told {
    /// How much was added to each counter.
    pub(crate) counted: [i64; 2],
    /// How often something was added to what was read.
    counted_as_read: i64,
    /// Transactions in which something was written.
    pub(crate) written: Vec<TxnId>,
    inserted: Vec<Inserted>,
    pub(crate) answered: u64,
}

/// What was inserted, or was not.
struct Inserted {
    document: u64,
    /// No other document ever has it.
    value: u64,
    /// Where it was written, if it was.
    txn: Option<TxnId>,
    has_key: bool,
}

/// A document that is to be inserted.
struct Insertion {
    /// What to do about one that is there.
    on_conflict: &'static str,
    id: u64,
    /// No other document ever has it.
    value: u64,
    statement: String,
    args: Json,
}

/// What is asked for: where, and the body.
#[derive(Clone)]
enum Asked {
    Statement(Json),
    Transaction(Json),
}

impl Asked {
    fn statement(statement: &str, args: &Json) -> Self {
        Asked::Statement(json!({ "statement": statement, "args": args }))
    }

    fn route(&self) -> &'static str {
        match self {
            Asked::Statement(_) => "execute",
            Asked::Transaction(_) => "transaction",
        }
    }

    fn body(&self) -> &Json {
        match self {
            Asked::Statement(body) | Asked::Transaction(body) => body,
        }
    }
}

/// What is asked for besides.
#[derive(Clone, Copy, Default)]
struct Terms {
    /// To read this, or later.
    seen: Option<TxnId>,
    /// To change only what is unchanged since then.
    since: Option<TxnId>,
}

impl Terms {
    fn seen(seen: Option<TxnId>) -> Self {
        Terms { seen, since: None }
    }
}

/// An answer to a statement.
struct Answer {
    status: StatusCode,
    body: Json,
}

impl Answer {
    fn txn(&self) -> Option<TxnId> {
        self.body["transactionId"].as_u64().map(TxnId)
    }

    /// Whether it says which documents were written: of what was written before, that may not be
    /// known any more.
    fn knows_ids(&self) -> bool {
        self.body["warnings"].as_array().is_none_or(Vec::is_empty)
    }

    /// The documents that were written.
    fn ids(&self) -> Option<&Vec<Json>> {
        let ids = self.body["mutatedDocumentIds"].as_array();
        ids.or(self.body["mutatedDocuments"].as_array())
    }

    /// Where something was written, if it was.
    fn written_at(&self) -> Option<TxnId> {
        self.txn().filter(|_| self.has_written())
    }

    fn has_written(&self) -> bool {
        self.ids().is_some_and(|ids| !ids.is_empty())
    }
}

impl User {
    pub(crate) fn new(cluster: Arc<Cluster>, number: usize) -> Self {
        let dice = Dice::new(cluster.world.number());
        let name = format!("user-{number}");
        let told = Told::default();
        let server = number;
        let number = number as u64 + 1;
        User { cluster, dice, name, number, requests: 0, server, seen: None, told }
    }

    /// Uses the cluster for some time, in milliseconds.
    pub(crate) async fn run(mut self, until_ms: u64) -> Self {
        for number in COUNTERS.start..=TEXT {
            self.make_counter(number).await;
        }
        while self.cluster.world.elapsed_ms() < until_ms && self.cluster.violation().is_none() {
            pause(1 + self.dice.below(100)).await;
            match self.dice.below(10) {
                0 => self.count().await,
                1 => self.count_in_statements().await,
                2 => self.count_as_read().await,
                3..5 => self.insert().await,
                5 => self.insert_once().await,
                6 if self.dice.once_in(2) => self.write_text().await,
                6 => self.delete().await,
                7 => self.write_where().await,
                _ => self.select().await,
            }
        }
        self
    }

    async fn make_counter(&mut self, number: u64) {
        let statement =
            format!("INSERT INTO {COLLECTION} DOCUMENTS (:d) ON ID CONFLICT DO NOTHING");
        let args = json!({ "d": { "_id": number, "what": "counter" } });
        self.write(&Asked::statement(&statement, &args)).await;
    }

    /// Counts in both counters, in one transaction.
    async fn count(&mut self) {
        let by = i64::try_from(self.dice.below(5)).expect("a small one") + 1;
        let statement = format!(
            "UPDATE {COLLECTION} APPLY n INCREMENT BY {by} WHERE _id = {} OR _id = {}",
            COUNTERS.start,
            COUNTERS.start + 1
        );
        let answer = self.write_well(&statement).await;
        let ids = answer.body["mutatedDocumentIds"].as_array().map_or(0, Vec::len);
        if answer.knows_ids() && ids != 2 {
            self.violate(&format!("IN-2: it counts in {ids} documents: {}", answer.body));
        }
        self.told.counted.iter_mut().for_each(|counted| *counted += by);
    }

    /// The same in several statements, which also make the counters if they are not there.
    async fn count_in_statements(&mut self) {
        let by = i64::try_from(self.dice.below(5)).expect("a small one") + 1;
        let statements = COUNTERS.flat_map(|number| {
            [
                format!(
                    "INSERT INTO {COLLECTION} DOCUMENTS ({{'_id': {number}}}) \
                     ON ID CONFLICT DO NOTHING"
                ),
                format!("UPDATE {COLLECTION} APPLY n INCREMENT BY {by} WHERE _id = {number}"),
            ]
        });
        let statements: Vec<_> =
            statements.map(|statement| json!({ "statement": statement })).collect();
        let answer = self.write(&Asked::Transaction(json!({ "statements": statements }))).await;
        if answer.status != StatusCode::OK {
            self.violate(&format!("IN-1: a transaction is refused: {}", answer.body));
        }
        let documents = answer.body["mutatedDocuments"].as_array().map_or(0, Vec::len);
        if answer.knows_ids() && documents != 2 {
            self.violate(&format!("IN-2: it counts in {documents} documents: {}", answer.body));
        }
        self.told.counted.iter_mut().for_each(|counted| *counted += by);
    }

    /// Counts by writing one more than was read, if nobody else has by then.
    async fn count_as_read(&mut self) {
        let select = format!("SELECT n FROM {COLLECTION} WHERE _id = {READ_COUNTER}");
        let select = Asked::statement(&select, &json!({}));
        let Some(read) = self.ask(&select, None, Terms::seen(self.seen)).await else { return };
        let since = read.txn().filter(|_| read.status == StatusCode::OK);
        let (Some(since), Some(item)) = (since, read.body["items"].get(0)) else { return };
        let count = item["n"].as_i64().unwrap_or(0) + 1;
        pause(self.dice.below(20)).await;
        let update = format!("UPDATE {COLLECTION} SET n = {count} WHERE _id = {READ_COUNTER}");
        let update = Asked::statement(&update, &json!({}));
        let answer = self.write_since(&update, Some(since)).await;
        match answer.body["error"]["code"].as_str() {
            None if answer.has_written() || !answer.knows_ids() => self.told.counted_as_read += 1,
            Some("document_changed" | "idempotency_key_refused") => {}
            _ => self.violate(&format!("IN-1: it does not count: {}", answer.body)),
        }
    }

    async fn insert(&mut self) {
        let Insertion { on_conflict, id, value, statement, args } = self.draw_insert();
        let answer = self.write(&Asked::statement(&statement, &args)).await;
        let is_expected = match answer.body["error"]["code"].as_str() {
            None => true,
            Some("id_conflict" | "idempotency_key_refused") => on_conflict == "FAIL",
            Some(_) => false,
        };
        if !is_expected {
            self.violate(&format!("IN-1: an INSERT is refused: {}", answer.body));
        }
        let txn = answer.written_at();
        self.told.inserted.push(Inserted { document: id, value, txn, has_key: true });
    }

    /// Inserts without a key, and lets be what comes of it.
    async fn insert_once(&mut self) {
        let Insertion { id, value, statement, args, .. } = self.draw_insert();
        let Some(answer) =
            self.ask(&Asked::statement(&statement, &args), None, Terms::seen(self.seen)).await
        else {
            return;
        };
        self.cluster.tell(&format!("{}: {} {}", self.name, answer.status, answer.body));
        let txn = answer.written_at();
        if txn.is_some() || answer.body["error"]["code"] != "outcome_unknown" {
            self.told.inserted.push(Inserted { document: id, value, txn, has_key: false });
        }
    }

    fn draw_insert(&mut self) -> Insertion {
        self.requests += 1;
        let on_conflict = *self.dice.one_of(&["FAIL", "DO NOTHING", "DO UPDATE"]);
        let (id, value) = (self.dice.below(DOCUMENTS), self.number * 1_000 + self.requests);
        let statement =
            format!("INSERT INTO {COLLECTION} DOCUMENTS (:d) ON ID CONFLICT {on_conflict}");
        let args = json!({ "d": { "_id": id, "a": value, "by": self.name } });
        Insertion { on_conflict, id, value, statement, args }
    }

    /// Makes a text of a number that it also counts up: done once, it cannot be done again.
    async fn write_text(&mut self) {
        let number = format!("UPDATE {COLLECTION} SET k = 1 WHERE _id = {TEXT}");
        self.write_well(&number).await;
        self.requests += 1;
        let value = self.number * 1_000 + self.requests;
        let statements = [
            format!("UPDATE {COLLECTION} SET a = {value}, k = 'text' WHERE _id = {TEXT}"),
            format!("UPDATE {COLLECTION} APPLY k INCREMENT BY 1 WHERE _id = {TEXT}"),
        ];
        let statements = statements.map(|statement| json!({ "statement": statement }));
        let answer = self.write(&Asked::Transaction(json!({ "statements": statements }))).await;
        let is_expected = match answer.body["error"]["code"].as_str() {
            None | Some("not_a_number" | "idempotency_key_refused") => true,
            Some(_) => false,
        };
        if !is_expected {
            self.violate(&format!("IN-1: a transaction is refused: {}", answer.body));
        }
        // It always has something to write, also if it is not known any more what it wrote.
        let txn = answer.txn().filter(|_| answer.status == StatusCode::OK);
        self.told.inserted.push(Inserted { document: TEXT, value, txn, has_key: true });
    }

    async fn delete(&mut self) {
        let id = self.dice.below(DOCUMENTS);
        let statement = format!("DELETE FROM {COLLECTION} WHERE _id = {id}");
        self.write_well(&statement).await;
    }

    /// Reads, and writes what it found.
    async fn write_where(&mut self) {
        let (least, value) = (self.dice.below(1_000), self.dice.below(1_000));
        let statement = format!("UPDATE {COLLECTION} SET b = {value} WHERE a > {least}");
        self.write_well(&statement).await;
    }

    /// Writes what nothing can be in the way of.
    async fn write_well(&mut self, statement: &str) -> Answer {
        let answer = self.write(&Asked::statement(statement, &json!({}))).await;
        if answer.status != StatusCode::OK {
            self.violate(&format!("IN-1: {statement} is refused: {}", answer.body));
        }
        answer
    }

    async fn select(&mut self) {
        let id = self.dice.below(COUNTERS.end);
        let statement = format!("SELECT * FROM {COLLECTION} WHERE _id = {id}");
        pause(self.dice.below(3)).await;
        // Who names nothing reads what is stable, and at one server that does not go back.
        let names_seen = self.dice.once_in(2);
        let cluster = Arc::clone(&self.cluster);
        let server = &cluster.servers[self.server % cluster.servers.len()];
        let seen = if names_seen { self.seen } else { server.floor() };
        let named = self.seen.filter(|_| names_seen);
        let Some(answer) =
            self.ask(&Asked::statement(&statement, &json!({})), None, Terms::seen(named)).await
        else {
            return;
        };
        if answer.status != StatusCode::OK || !answer.body["error"].is_null() {
            self.cluster.tell(&format!("{} is refused: {}", self.name, answer.body));
            return;
        }
        let items = answer.body["items"].as_array().cloned().unwrap_or_default();
        let Some(txn) = answer.txn().filter(|txn| Some(*txn) >= seen) else {
            if seen.is_some() || !items.is_empty() {
                self.violate(&format!("ST-4: it reads at {:?}, not {seen:?}", answer.txn()));
            }
            return;
        };
        if !names_seen {
            server.has_read(txn);
        }
        self.told.answered += 1;
        self.seen = self.seen.max(Some(txn));
        self.cluster.follow();
        self.cluster.tell(&format!("{} reads at {txn}", self.name));
        let found: Vec<_> = items
            .iter()
            .map(|item| Value::from_json(item.to_string().as_bytes()).expect("a document is JSON"))
            .collect();
        let model = self.cluster.model.lock();
        let is_right = found.len() < 2 && model.may_be_seen(&document(id), txn, found.first());
        let wrong = (!is_right).then(|| model.seen(&document(id), txn));
        drop(model);
        if let Some(expected) = wrong {
            self.violate(&format!("ST-4: it reads {found:?} at {txn}, which is {expected:?}"));
        }
    }

    /// Writes until it is told what came of it; sometimes once more.
    async fn write(&mut self, asked: &Asked) -> Answer {
        self.write_since(asked, None).await
    }

    /// The same, if what it changes is unchanged since then.
    async fn write_since(&mut self, asked: &Asked, since: Option<TxnId>) -> Answer {
        self.requests += 1;
        let key = format!("{}-{}", self.name, self.requests);
        let answer = self.write_as(asked, &key, since).await;
        if answer.status == StatusCode::OK {
            self.told.written.extend(answer.txn());
        }
        if self.dice.once_in(5) {
            let again = self.write_as(asked, &key, since).await;
            self.check_repeated(&answer, &again);
        }
        answer
    }

    /// What was written is not written again, and the answer is the same; what was refused stays so.
    fn check_repeated(&self, first: &Answer, again: &Answer) {
        let ids = |answer: &Answer| {
            let mut ids = answer.ids().cloned().unwrap_or_default();
            ids.sort_by_key(Json::to_string);
            ids
        };
        let know_ids = first.knows_ids() && again.knows_ids();
        let is_same = first.status.is_success() == again.status.is_success()
            && first.txn() == again.txn()
            && (!know_ids || ids(first) == ids(again));
        if !is_same {
            let (one, two) = (&first.body, &again.body);
            self.violate(&format!("IN-1: repeated, {one} becomes {two}"));
        }
    }

    async fn write_as(&mut self, asked: &Asked, key: &str, since: Option<TxnId>) -> Answer {
        let began = self.cluster.world.elapsed_ms();
        loop {
            if self.cluster.world.elapsed_ms() - began > PATIENCE_MS {
                self.violate("IN-1: it is not told what came of a statement");
            }
            if self.cluster.violation().is_some() {
                return Answer { status: StatusCode::OK, body: Json::Null };
            }
            pause(self.dice.below(3)).await;
            let terms = Terms { since, ..Terms::seen(self.seen) };
            let Some(answer) = self.ask(asked, Some(key), terms).await else { continue };
            let is_later = answer.status.is_server_error();
            self.cluster.tell(&format!("{}: {} {}", self.name, answer.status, answer.body));
            if !is_later {
                self.seen = self.seen.max(answer.txn());
                return answer;
            }
            self.go_on().await;
        }
    }

    /// Asks a server; goes on to the next one if that is dead.
    async fn ask(&mut self, asked: &Asked, key: Option<&str>, terms: Terms) -> Option<Answer> {
        let body = asked.body();
        let mut request = Request::post(format!("/apps/{}/api/v1/store/{}", APP.0, asked.route()))
            .header("content-type", "application/json");
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let Terms { seen, since } = terms;
        for (name, txn) in [("x-anabranch-txn-id", seen), ("x-anabranch-if-match", since)] {
            if let Some(TxnId(txn)) = txn {
                request = request.header(name, txn);
            }
        }
        let request = request.body(Body::from(body.to_string())).expect("a request");
        let servers = &self.cluster.servers;
        match servers[self.server % servers.len()].ask(request).await {
            Some((status, body)) => Some(Answer { status, body: parse(&body) }),
            None => {
                self.go_on().await;
                None
            }
        }
    }

    async fn go_on(&mut self) {
        self.server += 1;
        pause(10 + self.dice.below(100)).await;
    }

    fn violate(&self, what: &str) {
        self.cluster.violate(&format!("{what} ({})", self.name));
    }
}

/// What was counted is there, once; so is what was written, and nothing else (IN-1).
pub(crate) fn check_told(cluster: &Cluster, told: &[Told]) {
    let Some(last) = cluster.model.lock().last() else { return };
    let by_index = |index| told.iter().map(|told| told.counted[index]).sum();
    let counted: [i64; 2] = [0, 1].map(by_index);
    let as_read = told.iter().map(|told| told.counted_as_read).sum();
    for (number, counted) in COUNTERS.zip(counted).chain([(READ_COUNTER, as_read)]) {
        let found = count_of(cluster, &document(number), last);
        if found != counted && !cluster.may_lose() {
            cluster.violate(&format!("IN-1: {counted} was counted, and there is {found}"));
        }
    }
    let written = told.iter().flat_map(|told| &told.written);
    let model = cluster.model.lock();
    let missing: Vec<_> = written.filter(|txn| !model.has(**txn)).collect();
    drop(model);
    if let Some(txn) = missing.first() {
        cluster.violate(&format!("IN-1: {txn} was acknowledged, and is not there"));
    }
    told.iter().flat_map(|told| &told.inserted).for_each(|it| check_inserted(cluster, it));
}

/// What was told to be written was, at that transaction; what was not never was. Without a key it may
/// have been written twice, and the later transaction is told.
fn check_inserted(cluster: &Cluster, inserted: &Inserted) {
    let Inserted { document: number, value, txn, has_key } = inserted;
    let (id, value) = (document(*number), Value::Int(i64::try_from(*value).expect("a small one")));
    let has_value = |document: &Value| document.get(&["a"]) == Some(&value);
    let model = cluster.model.lock();
    let was_written = match txn.filter(|_| *has_key) {
        Some(txn) => model.seen(&id, txn).as_ref().is_some_and(has_value),
        None => {
            let versions = model.versions_until(&id.to_bytes(), txn.unwrap_or(TxnId(u64::MAX)));
            versions.iter().any(|version| has_value(&version.hidden_value()))
        }
    };
    drop(model);
    if was_written != txn.is_some() && !cluster.may_lose() {
        cluster.violate(&format!("IN-1: {value:?} was told to be written at {txn:?}"));
    }
}

fn count_of(cluster: &Cluster, id: &DocumentId, at: TxnId) -> i64 {
    match cluster.model.lock().seen(id, at) {
        Some(Value::Object(fields)) => match fields.get("n") {
            Some(Value::Int(count)) => *count,
            _ => 0,
        },
        _ => 0,
    }
}

fn parse(body: &[u8]) -> Json {
    serde_json::from_slice(body).expect("an answer is JSON")
}

//! Clients that write and read over HTTP and record what they did and saw.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use anabranch_tests::cluster::{Api, PATIENCE, Reply, Terms};
use anabranch_tests::history::{
    Action, Change, Document, Effect, Operation, Read, Scope, Seen, Server, Txn, Value, Write,
};
use anabranch_tests::support::Random;
use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use crate::stage::{
    COLLECTIONS, DOCUMENTS, DRAFTS, Notes, Stage, collections, document, documents,
};
use crate::watch::Stretch;

/// How long a client waits for a read.
const READ_LIMIT: Duration = Duration::from_secs(5);
/// Between two things that a session does, at most: it has other things to do as well.
const PAUSE_MS: u64 = 60;
const AGAIN: Duration = Duration::from_millis(30);
/// Increments differ, so that what a counter lacks tells which round it lacks.
const MOST: u64 = 1_000_000_000;

/// A client.
pub(crate) struct Session {
    number: usize,
    stage: Arc<Stage>,
    notes: Arc<Notes>,
    random: Random,
    /// The server that it asks, until that one fails.
    server: usize,
    seen: Option<Txn>,
    written: u64,
    done: Vec<Operation>,
    /// Its documents that are there now, of those that come and go.
    drafts: BTreeSet<Document>,
}

/// What is asked for and not answered yet.
struct Asked {
    began: anabranch_tests::history::Moment,
    token: Option<Txn>,
    server: Server,
}

impl Session {
    pub(crate) fn new(number: usize, stage: Arc<Stage>, notes: Arc<Notes>) -> Self {
        let random = Random::new(stage.seed.wrapping_mul(1_000).wrapping_add(number as u64));
        let server = number % stage.servers();
        let (seen, written, done, drafts) = (None, 0, Vec::new(), BTreeSet::new());
        Session { number, stage, notes, random, server, seen, written, done, drafts }
    }

    /// Makes all documents, and all others know of them; what it did.
    pub(crate) fn prepare(mut self) -> Result<(Vec<Operation>, Txn)> {
        for collection in COLLECTIONS {
            let documents = (0..DOCUMENTS).map(|number| document(collection, number));
            self.insert(&documents.collect::<Vec<_>>(), true)?;
        }
        let seen = self.seen.context("it wrote something")?;
        Ok((self.done, seen))
    }

    /// Writes and reads until the run is over; what it did.
    pub(crate) fn run(mut self) -> Vec<Operation> {
        let stage = Arc::clone(&self.stage);
        stage.until_over(|| {
            self.step().with_context(|| format!("session {}", self.number))?;
            thread::sleep(Duration::from_millis(self.random.below(PAUSE_MS)));
            Ok(())
        });
        self.done
    }

    /// It was told of this transaction by the one that prepared everything.
    pub(crate) fn told(mut self, seen: Txn) -> Self {
        self.seen = Some(seen);
        self
    }

    fn step(&mut self) -> Result<()> {
        if let Some((from, token)) = self.notes.take(self.number) {
            self.seen = self.seen.max(Some(token));
            let now = self.stage.moment();
            let action = Action::Take { from, token };
            self.done.push(Operation { began: now, ended: now, token: None, action });
        }
        let collection = *self.random.one_of(&COLLECTIONS);
        match self.random.below(100) {
            0..=11 => self.change_drafts(),
            number @ 12..=49 => {
                let documents = self.some(collection);
                if number < 40 {
                    self.update(&documents)?;
                } else {
                    self.insert(&documents, false)?;
                }
                // At once, while other replicas may not have come that far.
                if self.random.below(2) == 0 { self.query(&documents) } else { Ok(()) }
            }
            50..=69 => self.get(),
            70..=84 => {
                let documents = self.some(collection);
                self.query(&documents)
            }
            85..=94 => {
                let all: Vec<_> = collections().collect();
                let one = *self.random.one_of(&all[..]);
                self.query_all(one)
            }
            _ => {
                let other = self.random.index(crate::SESSIONS);
                if let (Some(seen), true) = (self.seen, other != self.number) {
                    self.notes.leave(other, self.number, seen);
                }
                Ok(())
            }
        }
    }

    /// One to four documents of a collection.
    fn some(&mut self, collection: &str) -> Vec<Document> {
        let numbers: BTreeSet<_> =
            (0..=self.random.below(4)).map(|_| self.random.index(DOCUMENTS)).collect();
        numbers.into_iter().map(|number| document(collection, number)).collect()
    }

    /// Sets a register and counts up in several documents, which are there.
    fn update(&mut self, documents: &[Document]) -> Result<()> {
        let collection = &documents[0].collection;
        let amount = 1 + self.random.below(MOST);
        let (name, key) = self.name();
        let statement = format!(
            "UPDATE {collection} SET tag = :tag APPLY hits INCREMENT BY {amount} \
             WHERE _id IN (:ids)"
        );
        let args = json!({"tag": name, "ids": ids(documents)});
        let amount = i64::try_from(amount)?;
        let changes = documents.iter().flat_map(|document| {
            let tag = change(document, "tag", Effect::Set(name.clone()));
            [tag, change(document, "hits", Effect::Add(amount))]
        });
        let changes = changes.collect();
        self.write(&statement, &args, documents, Write { name: key, changes, outcome: None })
    }

    /// Sets another register in documents that may be there, each to a value of its own.
    fn insert(&mut self, documents: &[Document], is_first: bool) -> Result<()> {
        let (name, key) = self.name();
        let value = |document: &Document| format!("{name}-{}", document.id);
        let (mut changes, mut inserted) = (Vec::new(), Vec::new());
        for document in documents {
            let mut item = json!({"_id": document.id, "note": value(document)});
            changes.push(Change::whole(document.clone(), Effect::Insert));
            changes.push(change(document, "note", Effect::Set(value(document))));
            if is_first {
                item["hits"] = json!(0);
                changes.push(change(document, "hits", Effect::Add(0)));
            }
            inserted.push(item);
        }
        let collection = &documents[0].collection;
        let statement = format!("INSERT INTO {collection} DOCUMENTS (:d) ON ID CONFLICT DO UPDATE");
        let args = json!({"d": inserted});
        self.write(&statement, &args, documents, Write { name: key, changes, outcome: None })
    }

    /// Changes documents that only this session changes: it knows which are there, and with its token
    /// every server does, too. So it is known which documents a statement finds.
    fn change_drafts(&mut self) -> Result<()> {
        let own = crate::stage::drafts(self.number);
        let some: BTreeSet<_> =
            (0..=self.random.below(3)).map(|_| self.random.one_of(&own).clone()).collect();
        let there: Vec<_> = some.intersection(&self.drafts).cloned().collect();
        let some: Vec<_> = some.into_iter().collect();
        match self.random.below(3) {
            0 if !there.is_empty() => self.delete(&some, &there),
            1 if there.len() == some.len() => self.update(&some),
            _ => {
                self.insert(&some, false)?;
                self.drafts.extend(some);
                Ok(())
            }
        }
    }

    /// Deletes these documents, some of which are there.
    fn delete(&mut self, documents: &[Document], there: &[Document]) -> Result<()> {
        let (_, key) = self.name();
        let statement = format!("DELETE FROM {} WHERE _id IN (:ids)", documents[0].collection);
        let delete = |document: &Document| Change::whole(document.clone(), Effect::Delete);
        let changes = there.iter().map(delete).collect();
        let write = Write { name: key, changes, outcome: None };
        self.write(&statement, &json!({"ids": ids(documents)}), there, write)?;
        self.drafts.retain(|document| !there.contains(document));
        Ok(())
    }

    /// The name of the next round, and its key, which no other run has.
    fn name(&mut self) -> (String, String) {
        self.written += 1;
        let name = format!("s{}-{}", self.number, self.written);
        let key = format!("{}-{name}", self.stage.seed);
        (name, key)
    }

    fn ask(&mut self) -> Asked {
        // Most of the time a client says what it has seen.
        let token = self.seen.filter(|_| self.random.below(4) > 0);
        Asked { began: self.stage.moment(), token, server: self.stage.server(self.server) }
    }

    /// What was asked for is done.
    fn finish(&mut self, asked: &Asked, seen: Option<Txn>, action: Action) {
        self.seen = self.seen.max(seen);
        let Asked { began, token, .. } = *asked;
        self.done.push(Operation { began, ended: self.stage.moment(), token, action });
    }

    /// The server did not do what was asked: the next one is asked.
    fn turn_away(&mut self) {
        self.stage.refused.fetch_add(1, Ordering::Relaxed);
        self.server = (self.server + 1) % self.stage.servers();
    }

    /// Repeats a round under its key until it is acknowledged.
    fn write(
        &mut self,
        statement: &str,
        args: &serde_json::Value,
        documents: &[Document],
        mut write: Write,
    ) -> Result<()> {
        let (mut asked, start) = (self.ask(), Instant::now());
        if documents.iter().any(|document| document.collection == DRAFTS) {
            asked.token = self.seen;
        }
        let token = asked.token.map(|Txn(token)| token);
        let terms = Terms { key: Some(&write.name), ..Terms::at(token) };
        let reply = loop {
            let last = match self.stage.api(self.server).try_execute_on(statement, args, &terms) {
                Ok(reply) if reply.may_be_repeated() => format!("{reply:?}"),
                Ok(reply) => break reply,
                Err(error) => format!("{error:#}"),
            };
            if start.elapsed() > PATIENCE {
                bail!("{} was not acknowledged within {PATIENCE:?}: {last}", write.name);
            }
            self.turn_away();
            thread::sleep(AGAIN);
        };
        check_written(&reply, documents).with_context(|| format!("{write:?} with {token:?}"))?;
        write.outcome = reply.txn.map(Txn);
        let seen = write.outcome;
        self.finish(&asked, seen, Action::Write(write));
        Ok(())
    }

    fn get(&mut self) -> Result<()> {
        let all: Vec<_> = collections().flat_map(documents).collect();
        let document = self.random.one_of(&all).clone();
        let scope = Scope::Documents([document.clone()].into());
        let Document { collection, id } = document.clone();
        let call = |api: &Api, terms: &Terms<'_>| api.try_get_on(&collection, &id, terms);
        self.read(scope, call, |reply| {
            if reply.status == 404 {
                return Ok(BTreeMap::new());
            }
            let version = Some(Txn(reply.version.context("the version of a document")?));
            let seen = Seen { version, ..seen(&reply.body)? };
            Ok([(document, seen)].into())
        })
    }

    fn query(&mut self, documents: &[Document]) -> Result<()> {
        let collection = &documents[0].collection;
        let statement = format!("SELECT * FROM {collection} WHERE _id IN (:ids)");
        let scope = Scope::Documents(documents.iter().cloned().collect());
        self.select(collection, scope, &statement, &json!({"ids": ids(documents)}))
    }

    fn query_all(&mut self, collection: &str) -> Result<()> {
        let scope = Scope::Collection(collection.to_owned());
        self.select(collection, scope, &format!("SELECT * FROM {collection}"), &json!({}))
    }

    fn select(
        &mut self,
        collection: &str,
        scope: Scope,
        statement: &str,
        args: &serde_json::Value,
    ) -> Result<()> {
        let call = |api: &Api, terms: &Terms<'_>| api.try_execute_on(statement, args, terms);
        self.read(scope, call, |reply| rows(collection, &reply.body))
    }

    /// Reads until it is answered, by one server after the other, and records that.
    fn read(
        &mut self,
        scope: Scope,
        call: impl Fn(&Api, &Terms<'_>) -> Result<Reply>,
        seen: impl FnOnce(&Reply) -> Result<BTreeMap<Document, Seen>>,
    ) -> Result<()> {
        let from = self.stage.now();
        let mut asked = self.ask();
        let reply = loop {
            match call(self.stage.api(self.server), &terms(&asked)) {
                Ok(reply) if is_answer(&reply) => break reply,
                Ok(reply) if !reply.may_be_repeated() && reply.status != 200 => {
                    bail!("a read of {scope:?} was refused: {reply:?}");
                }
                // One that breaks off is no answer either.
                Ok(_) | Err(_) => self.turn_away(),
            }
            if self.stage.is_over() {
                // How long it was not answered counts all the same.
                self.stage.waited(Stretch { from, to: self.stage.now() });
                return Ok(());
            }
            thread::sleep(AGAIN);
            asked.began = self.stage.moment();
            asked.server = self.stage.server(self.server);
        };
        self.stage.waited(Stretch { from, to: self.stage.now() });
        let seen = seen(&reply).with_context(|| format!("{reply:?}"))?;
        let snapshot = reply.txn.map(Txn);
        // Who died meanwhile may have answered before or after.
        let server = Some(asked.server).filter(|was| *was == self.stage.server(was.number));
        let read = Read { scope, snapshot, server, seen };
        self.finish(&asked, snapshot, Action::Read(read));
        Ok(())
    }
}

fn terms(asked: &Asked) -> Terms<'static> {
    let limit = Some(READ_LIMIT);
    Terms { limit, ..Terms::at(asked.token.map(|Txn(token)| token)) }
}

/// Whether a read was answered: with what is there, or that there is nothing.
pub(crate) fn is_answer(reply: &Reply) -> bool {
    match reply.status {
        200 => reply.body.is_object() && reply.body["error"].is_null(),
        404 => reply.code() == "document_not_found",
        _ => false,
    }
}

fn change(document: &Document, field: &str, effect: Effect) -> Change {
    Change { document: document.clone(), field: field.to_owned(), effect }
}

fn ids(documents: &[Document]) -> Vec<&str> {
    documents.iter().map(|document| document.id.as_str()).collect()
}

/// A round has to have changed these documents: they were there all along.
fn check_written(reply: &Reply, documents: &[Document]) -> Result<()> {
    ensure!(reply.status == 200 && reply.body["error"].is_null(), "{reply:?}");
    let warnings = reply.body["warnings"].as_array().context("warnings")?;
    if warnings.iter().any(|warning| warning["code"] == "ids_unknown") {
        return Ok(());
    }
    let written = reply.body["mutatedDocumentIds"].as_array().context("ids")?;
    let written: BTreeSet<_> = written.iter().filter_map(|id| id.as_str()).collect();
    ensure!(written == ids(documents).into_iter().collect(), "{written:?} were written: {reply:?}");
    ensure!(reply.txn.is_some() && reply.body["transactionId"].as_u64() == reply.txn, "{reply:?}");
    Ok(())
}

/// The documents that a query found.
pub(crate) fn rows(collection: &str, body: &serde_json::Value) -> Result<BTreeMap<Document, Seen>> {
    let mut rows = BTreeMap::new();
    for item in body["items"].as_array().context("items")? {
        let id = item["_id"].as_str().context("an id")?.to_owned();
        let document = Document { collection: collection.to_owned(), id };
        let twice = rows.insert(document, seen(item)?).is_some();
        ensure!(!twice, "{} is there twice", item["_id"]);
    }
    Ok(rows)
}

/// A document as JSON shows it.
pub(crate) fn seen(item: &serde_json::Value) -> Result<Seen> {
    let fields = item.as_object().context("a document")?.iter();
    let fields = fields.filter(|(name, _)| *name != "_id").map(|(name, value)| {
        let value = match (value.as_str(), value.as_i64()) {
            (Some(text), _) => Value::Text(text.to_owned()),
            (None, Some(number)) => Value::Number(number),
            (None, None) => Value::Other(value.to_string()),
        };
        (name.clone(), value)
    });
    Ok(Seen { version: None, fields: fields.collect() })
}

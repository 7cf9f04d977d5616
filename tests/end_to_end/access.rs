//! What a caller may not read makes no difference to them: whatever they ask, they are answered as if it
//! were not there.
//!
//! Two apps have the same documents that the caller sees; one of them has others, too. All that the
//! caller asks is asked of both, and the answers have to be the same. Only that an id is taken can be
//! found out, by inserting it: ids are of all callers together.

use std::cell::{Cell, RefCell};
use std::fs;
use std::path::Path;

use anabranch_tests::cluster::{Api, Dev, Follower, PATIENCE, plain_client};
use anabranch_tests::support::wait_until;
use anyhow::{Context, Result, bail, ensure};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use reqwest::blocking::{Client, RequestBuilder};
use serde_json::{Value, json};

use crate::BINARY;
use crate::commands::{DONE, run};

const CASES: u32 = 40;
const STEPS: usize = 25;
/// The apps: one with, one without what the caller does not see.
const APPS: [&str; 2] =
    ["11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"];
/// Documents that the caller may see, and others that only one app has.
const SEEN: std::ops::Range<i64> = 0..5;
const HIDDEN: std::ops::Range<i64> = 10..15;
/// A document that is written last of all.
const LAST: i64 = 99;
/// What the caller follows, of which transactions may be told together: only what it is in the end counts.
const FOLLOWED_IN_THE_END: [&str; 2] = [
    "SELECT * FROM things ORDER BY _id DESC LIMIT 3",
    "SELECT MAX(_id) AS _id, COUNT(*) AS count, SUM(n) AS sum FROM things",
];
/// And of which every transaction is told by itself.
const FOLLOWED: [&str; 2] =
    ["SELECT * FROM things", "SELECT _id FROM things WHERE n > 0 ORDER BY n DESC"];

#[test]
fn what_a_caller_may_not_read_makes_no_difference_to_them() -> Result<()> {
    let dir = tempfile::tempdir()?;
    // Where a document lies depends on its app, and what is decided as a whole on where documents lie.
    let settings = dir.path().join("settings.toml");
    fs::write(&settings, "slices = 1\n")?;
    let flags = ["--config".to_owned(), settings.display().to_string()];
    let dev = Dev::start(Path::new(BINARY), dir.path(), "access", &flags)?;
    let world = World::new(&dev)?;
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let steps = prop::collection::vec(arbitrary_step(), 1..STEPS);
    let number = Cell::new(0);
    let compared = Cell::new(0);
    TestRunner::new(config).run(&steps, |steps| {
        // A collection of its own, which nobody has written to.
        number.set(number.get() + 1);
        let collection = format!("c{}", number.get());
        let told = world.play(&collection, &steps);
        compared
            .set(compared.get() + told.map_err(|error| TestCaseError::fail(format!("{error:#}")))?);
        Ok(())
    })?;
    ensure!(compared.get() > CASES as usize, "only {} answers were compared", compared.get());
    Ok(())
}

/// What happens.
#[derive(Clone, Debug)]
enum Step {
    /// Somebody who may do everything writes a document that the caller sees.
    Write(i64, i64, bool),
    /// Or one that the caller does not see.
    Hide(i64, i64),
    /// One that the caller saw is not theirs any more.
    Leave(i64),
    /// One that the caller does not see is deleted.
    Unhide(i64),
    /// The caller asks.
    Ask(Ask),
}

/// What the caller asks.
#[derive(Clone, Debug)]
enum Ask {
    Statement(String, Since),
    /// Several statements as one, also as a whole or not at all; sent once more under its key.
    Transaction(Vec<(String, Since)>, Atomic, Again),
    Pages(String),
    Document(i64),
    Load(Vec<(i64, i64, bool)>),
}

/// Whether all of it is written or nothing.
type Atomic = bool;
/// Whether it has a key, and is sent twice.
type Again = bool;

/// Since when documents have to be unchanged, if at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Since {
    Whenever,
    TheBeginning,
    Now,
}

fn arbitrary_step() -> impl Strategy<Value = Step> {
    let n = 0_i64..4;
    prop_oneof![
        3 => (SEEN, n.clone(), any::<bool>()).prop_map(|(id, n, open)| Step::Write(id, n, open)),
        2 => (HIDDEN, n).prop_map(|(id, n)| Step::Hide(id, n)),
        1 => SEEN.prop_map(Step::Leave),
        1 => HIDDEN.prop_map(Step::Unhide),
        8 => arbitrary_ask().prop_map(Step::Ask),
    ]
}

fn arbitrary_id() -> impl Strategy<Value = i64> {
    prop_oneof![SEEN, HIDDEN]
}

fn arbitrary_condition() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("TRUE".to_owned()),
        arbitrary_id().prop_map(|id| format!("_id = {id}")),
        (arbitrary_id(), arbitrary_id())
            .prop_map(|(one, other)| format!("_id IN ({one}, {other})")),
        (0_i64..4).prop_map(|n| format!("n = {n}")),
        (0_i64..4).prop_map(|n| format!("n > {n} OR NOT open")),
        Just("store = 2".to_owned()),
        Just("store IS NOT NULL AND 10 / n > 2".to_owned()),
    ]
}

fn arbitrary_ask() -> impl Strategy<Value = Ask> {
    let columns = prop::sample::select(vec![
        "*",
        "COUNT(*) AS count",
        "COUNT(*) AS count, SUM(n) AS sum, MIN(n) AS min, MAX(n) AS max, AVG(n) AS avg",
        "DISTINCT n",
        "_id, 10 / n AS tenth",
    ]);
    let end = prop::sample::select(vec!["", " ORDER BY n DESC, _id LIMIT 2", " LIMIT 1 OFFSET 1"]);
    let select = (columns, arbitrary_condition(), end).prop_map(|(columns, condition, end)| {
        let end = if columns.contains('(') { "" } else { end };
        format!("SELECT {columns} FROM things WHERE {condition}{end}")
    });
    let select = select.boxed();
    let grouped = arbitrary_condition().prop_map(|condition| {
        format!("SELECT n, COUNT(*) AS count FROM things WHERE {condition} GROUP BY n")
    });
    let change = prop::sample::select(vec![
        "UPDATE things SET n = 3 WHERE",
        "UPDATE things SET x = 'text' WHERE",
        "UPDATE things APPLY n INCREMENT BY 1 WHERE",
        "UPDATE things APPLY x INCREMENT BY 1 WHERE",
        "UPDATE things SET store = 2 WHERE",
        "UPDATE things SET open = FALSE WHERE",
        "DELETE FROM things WHERE",
        "EVICT FROM things WHERE",
        "EXPLAIN SELECT * FROM things WHERE",
        "EXPLAIN ANALYZE SELECT * FROM things WHERE",
    ]);
    let change = (change, arbitrary_condition())
        .prop_map(|(change, condition)| format!("{change} {condition}"));
    let since = prop_oneof![
        8 => Just(Since::Whenever), 1 => Just(Since::TheBeginning), 1 => Just(Since::Now)
    ];
    let policy =
        prop::sample::select(vec!["FAIL", "DO NOTHING", "DO UPDATE", "DO UPDATE_LOCAL_DIFF"]);
    let document = (SEEN, 1_i64..3, any::<bool>());
    let insert = (document.clone(), policy).prop_map(|((id, store, open), policy)| {
        let document = format!("{{'_id': {id}, 'store': {store}, 'open': {open}, 'n': 1}}");
        format!("INSERT INTO things DOCUMENTS ({document}) ON ID CONFLICT {policy}")
    });
    let statement = |text: String| Ask::Statement(text, Since::Whenever);
    let change = change.boxed();
    let insert = insert.boxed();
    let written = prop_oneof![change.clone(), insert.clone()];
    let written = written.prop_filter("it writes", |text| !text.starts_with("EXPLAIN"));
    prop_oneof![
        3 => select.clone().prop_map(statement),
        1 => grouped.prop_map(statement),
        2 => (change, since.clone()).prop_map(|(text, since)| Ask::Statement(text, since)),
        2 => insert.prop_map(statement),
        2 => (prop::collection::vec((written, since), 1..4), any::<bool>(), any::<bool>())
            .prop_map(|(statements, atomic, again)| Ask::Transaction(statements, atomic, again)),
        1 => select.prop_map(Ask::Pages),
        1 => arbitrary_id().prop_map(Ask::Document),
        1 => prop::collection::vec(document, 1..3).prop_map(Ask::Load),
    ]
}

/// A cluster with both apps and their keys.
struct World {
    client: Client,
    api: Api,
    url: String,
    admins: Vec<String>,
    callers: Vec<String>,
    /// The last transaction that was written or read.
    seen: RefCell<u64>,
    /// How often the caller has asked both apps.
    asks: Cell<u64>,
}

impl Since {
    /// The transaction, if this is the last one.
    fn txn(self, last: u64) -> Option<u64> {
        match self {
            Since::Whenever => None,
            Since::TheBeginning => Some(1),
            Since::Now => Some(last),
        }
    }
}

/// What was answered, without what tells the time.
fn answer((status, body): (u16, Value)) -> Value {
    json!({ "status": status, "body": timeless(body) })
}

impl World {
    fn new(dev: &Dev) -> Result<Self> {
        let server = dev.api.admin_url();
        let create = |name: &str, app: &str, allows: &[&str]| -> Result<String> {
            let create = ["key", "create", name, "--app", app, "--server", server];
            Ok(run(&[&create[..], allows].concat(), DONE)?.0.trim().to_owned())
        };
        let rules = ["--read", "*:store = :store", "--write", "*:store = :store AND open"];
        let rules = [&rules[..], &["--claim", "store=1"]].concat();
        let made =
            |name, allows: &[&str]| APPS.iter().map(|app| create(name, app, allows)).collect();
        let (admins, callers): (Result<Vec<_>>, Result<Vec<_>>) =
            (made("admin", &["--all"]), made("till", &rules));
        let (url, seen) = (dev.api.url().to_owned(), RefCell::new(0));
        let (client, api) = (plain_client().build()?, dev.api.clone());
        let asks = Cell::new(0);
        let world = World { client, api, url, admins: admins?, callers: callers?, seen, asks };
        wait_until("the keys are known", PATIENCE, || {
            let known = |app: usize| {
                let select = "SELECT * FROM things";
                [&world.admins, &world.callers].into_iter().all(|keys| {
                    world.execute(app, &keys[app], "c0", select, None).is_ok_and(|it| it.0 == 200)
                })
            };
            Ok(known(0) && known(1))
        })?;
        // What is written from now on is after the beginning.
        for app in 0..2 {
            let insert = "INSERT INTO things DOCUMENTS ({})";
            let (status, body) = world.execute(app, &world.admins[app], "c0", insert, None)?;
            ensure!(status == 200, "{body}");
        }
        Ok(world)
    }

    /// Plays a case, and says how many answers were compared.
    fn play(&self, collection: &str, steps: &[Step]) -> Result<usize> {
        let mut compared = 0;
        let (mut followers, mut others) = (Vec::new(), Vec::new());
        for app in 0..2 {
            for query in FOLLOWED {
                followers.push(self.follow(app, collection, query)?);
            }
            for query in FOLLOWED_IN_THE_END {
                others.push(self.follow(app, collection, query)?);
            }
        }
        for (number, step) in steps.iter().enumerate() {
            let done = match step {
                Step::Ask(ask) => {
                    compared += 1;
                    self.compare(collection, ask)
                }
                step => self.happens(collection, step),
            };
            done.with_context(|| format!("step {number} of {steps:?}"))?;
        }
        // They still have the same.
        self.compare(
            collection,
            &Ask::Statement("SELECT * FROM things".to_owned(), Since::Whenever),
        )?;
        // And were told the same, up to what is written last.
        self.happens(collection, &Step::Write(LAST, 4, true))?;
        let told = followers.iter_mut().map(told).collect::<Result<Vec<_>>>()?;
        let in_the_end = others.iter_mut().map(in_the_end).collect::<Result<Vec<_>>>()?;
        for told in [told, in_the_end] {
            let (with, without) = told.split_at(told.len() / 2);
            ensure!(with == without, "{with:?} was told, and without what is hidden {without:?}");
        }
        Ok(compared)
    }

    /// Has the caller follow a query.
    fn follow(&self, app: usize, collection: &str, query: &str) -> Result<Follower> {
        let query = query.replace("things", collection);
        let mut follower = Follower::new(std::slice::from_ref(&self.api), &query)?
            .of_app(APPS[app], &self.callers[app]);
        follower.listen()?;
        Ok(follower)
    }

    /// Does what somebody does who may do everything.
    fn happens(&self, collection: &str, step: &Step) -> Result<()> {
        let write = |app: usize, statement: &str| {
            let key = &self.admins[app];
            let (status, body) = self.execute(app, key, collection, statement, None)?;
            ensure!(status == 200, "{statement}: {body}");
            Ok(())
        };
        let put = |id: i64, store: &str, open: bool, n: i64| {
            let document = format!("{{'_id': {id}, {store}'open': {open}, 'n': {n}}}");
            format!("INSERT INTO things DOCUMENTS ({document}) ON ID CONFLICT DO UPDATE")
        };
        match step {
            Step::Write(id, n, open) => {
                // In the one it may be a hidden one that becomes theirs, with all that it has.
                write(0, &format!("DELETE FROM things WHERE _id = {id} AND store != 1"))?;
                (0..2).try_for_each(|app| write(app, &put(*id, "'store': 1, ", *open, *n)))
            }
            Step::Hide(id, n) => {
                // The rule does not hold of it, or is unknown.
                let stores = ["'store': 2, ", "'store': NULL, ", "'store': '1', ", ""];
                write(0, &put(*id, stores[usize::try_from(*n)? % stores.len()], true, *n))
            }
            Step::Leave(id) => {
                write(0, &format!("UPDATE things SET store = 2 WHERE _id = {id}"))?;
                write(1, &format!("DELETE FROM things WHERE _id = {id}"))
            }
            Step::Unhide(id) => write(0, &format!("DELETE FROM things WHERE _id = {id}")),
            Step::Ask(_) => bail!("that is asked by the caller"),
        }
    }

    /// Asks both apps.
    fn compare(&self, collection: &str, ask: &Ask) -> Result<()> {
        // Inserting tells whether an id is taken, also by one that is not theirs any more.
        let inserts = match ask {
            Ask::Statement(text, _) => text.starts_with("INSERT"),
            Ask::Load(_) => true,
            Ask::Transaction(statements, ..) => {
                statements.iter().any(|(text, _)| text.starts_with("INSERT"))
            }
            Ask::Pages(_) | Ask::Document(_) => false,
        };
        if inserts {
            let left = "DELETE FROM things WHERE store = 2 AND _id < 10";
            self.execute(0, &self.admins[0], collection, left, None)?;
        }
        let now = *self.seen.borrow();
        self.asks.set(self.asks.get() + 1);
        let [with, without] = [0, 1].map(|app| self.ask(app, collection, ask, now));
        let (with, without) = (with?, without?);
        ensure!(
            with == without,
            "{ask:?} is answered by\n{with}\nand without what is hidden by\n{without}"
        );
        ensure!(with["status"].as_u64() < Some(500), "{ask:?}: {with}");
        Ok(())
    }

    /// What the caller is told, without what tells the time.
    fn ask(&self, app: usize, collection: &str, ask: &Ask, now: u64) -> Result<Value> {
        let key = &self.callers[app];
        let documents =
            format!("{}/apps/{}/api/v1/collections/{collection}/documents", self.url, APPS[app]);
        let (status, body) = match ask {
            Ask::Statement(text, since) => {
                self.execute(app, key, collection, text, since.txn(now))?
            }
            Ask::Transaction(statements, atomic, again) => {
                let statement = |(text, since): &(String, Since)| {
                    let text = text.replace("things", collection);
                    json!({"statement": text, "ifMatch": since.txn(now)})
                };
                let statements: Vec<_> = statements.iter().map(statement).collect();
                let body = json!({"statements": statements, "atomic": atomic});
                let url = format!("{}/apps/{}/api/v1/store/transaction", self.url, APPS[app]);
                let request = self.client.post(url).json(&body);
                if !again {
                    return Ok(answer(self.send(request, key)?));
                }
                let request = request.header("Idempotency-Key", self.asks.get());
                let repeated = request.try_clone().context("a body that is no stream")?;
                let first = answer(self.send(request, key)?);
                let second = answer(self.send(repeated, key)?);
                return Ok(json!({"status": first["status"], "first": first, "second": second}));
            }
            Ask::Document(id) => {
                self.send(self.client.get(format!("{documents}?key={id}")), key)?
            }
            Ask::Load(rows) => {
                let row = |(id, store, open): &(i64, i64, bool)| {
                    json!({"_id": id, "store": store, "open": open}).to_string() + "\n"
                };
                let lines: String = rows.iter().map(row).collect();
                let request = self.client.post(documents).body(lines);
                self.send(request.header("Content-Type", "application/x-ndjson"), key)?
            }
            Ask::Pages(text) => self.pages(app, key, collection, text)?,
        };
        Ok(answer((status, body)))
    }

    /// All pages of a SELECT, one row each.
    fn pages(&self, app: usize, key: &str, collection: &str, select: &str) -> Result<(u16, Value)> {
        let (mut pages, mut cursor, mut worst) = (Vec::new(), Value::Null, 0);
        loop {
            let statement = select.replace("things", collection);
            let body = json!({"statement": statement, "pageSize": 1, "cursor": cursor});
            let (status, mut reply) = self.send(self.post(app).json(&body), key)?;
            cursor = reply["cursor"].take();
            worst = worst.max(status);
            pages.push(json!([status, reply]));
            if cursor.is_null() || pages.len() > 50 {
                return Ok((worst, json!(pages)));
            }
        }
    }

    fn execute(
        &self,
        app: usize,
        key: &str,
        collection: &str,
        statement: &str,
        since: Option<u64>,
    ) -> Result<(u16, Value)> {
        let statement = statement.replace("things", collection);
        let mut request = self.post(app).json(&json!({ "statement": statement }));
        if let Some(since) = since {
            request = request.header("X-Anabranch-If-Match", since);
        }
        self.send(request, key)
    }

    fn post(&self, app: usize) -> RequestBuilder {
        self.client.post(format!("{}/apps/{}/api/v1/store/execute", self.url, APPS[app]))
    }

    /// Sends what sees all that was written before.
    fn send(&self, request: RequestBuilder, key: &str) -> Result<(u16, Value)> {
        let seen = *self.seen.borrow();
        let request = match seen {
            0 => request,
            seen => request.header("X-Anabranch-Txn-Id", seen),
        };
        let response = request.bearer_auth(key).send()?;
        let txn = response.headers().get("X-Anabranch-Txn-Id");
        let txn: Option<u64> = txn.and_then(|txn| txn.to_str().ok()?.parse().ok());
        *self.seen.borrow_mut() = seen.max(txn.unwrap_or(0));
        let status = response.status().as_u16();
        let text = response.text()?;
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }
}

/// All that came to a follower until the last document did.
fn told(follower: &mut Follower) -> Result<Vec<Value>> {
    let has_last = |told: &Value| {
        let changes = told["changes"].as_array().into_iter().flatten();
        changes.into_iter().any(|change| change["_id"] == LAST)
    };
    while !follower.followed.told.last().is_some_and(has_last) {
        follower.listen()?;
    }
    ensure!(follower.connections == 1, "the connection broke off");
    Ok(follower.followed.told.clone())
}

/// The rows that a follower has once the last document is among them.
fn in_the_end(follower: &mut Follower) -> Result<Vec<Value>> {
    while !follower.followed.rows().any(|row| row["_id"] == LAST) {
        follower.listen()?;
    }
    Ok(follower.followed.rows().cloned().collect())
}

/// A body without its transactions: these are of all apps together.
fn timeless(body: Value) -> Value {
    match body {
        Value::Object(fields) => {
            let kept = fields.into_iter().filter(|(name, _)| name != "transactionId");
            kept.map(|(name, value)| (name, timeless(value))).collect()
        }
        Value::Array(items) => items.into_iter().map(timeless).collect(),
        Value::String(text) => {
            let mut words = text.split("transaction ");
            let first = words.next().unwrap_or_default().to_owned();
            let rest = words.map(|rest| rest.trim_start_matches(|c: char| c.is_ascii_digit()));
            Value::String(rest.fold(first, |text, rest| text + "transaction N" + rest))
        }
        other => other,
    }
}

//! Writers that keep a model of what was acknowledged.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use anabranch_tests::cluster::{Api, PATIENCE};
use anabranch_tests::support::{Random, wait_until};
use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::{Value, json};

/// Writers of `items` in east; each owns its documents, so that it knows their content.
const WRITERS: u64 = 4;
/// The places of the clusters where there is one thing for each.
pub(crate) const EAST: usize = 0;
pub(crate) const WEST: usize = 1;
/// The collections that are written.
pub(crate) const COLLECTIONS: [&str; 3] = ["items", "notes", "shared"];
/// Documents of a writer.
const DOCUMENTS: u64 = 12;
/// The counters that both clusters add to.
const COUNTERS: [&str; 2] = ["a", "b"];

type Documents = BTreeMap<String, Value>;

/// What was acknowledged.
#[derive(Default)]
pub(crate) struct Model {
    pub(crate) writes: u64,
    items: Documents,
    notes: Documents,
    counters: BTreeMap<&'static str, i64>,
}

struct Shared {
    stop: AtomicBool,
    /// In east, in west.
    acknowledged: [AtomicU64; 2],
    failure: Mutex<Option<anyhow::Error>>,
    seed: u64,
}

/// Writers at work.
pub(crate) struct Load {
    shared: Arc<Shared>,
    writers: Vec<JoinHandle<Result<Model>>>,
}

impl Load {
    pub(crate) fn start(east: &Api, west: &Api, seed: u64) -> Result<Self> {
        for counter in COUNTERS {
            let document = json!({"d": {"_id": counter, "hits": 100}});
            east.execute("INSERT INTO shared DOCUMENTS (:d)", &document)?;
        }
        wait_until("the counters are in west", PATIENCE, || {
            Ok(west.documents("shared")?.len() == COUNTERS.len())
        })?;
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            acknowledged: [AtomicU64::new(0), AtomicU64::new(0)],
            failure: Mutex::new(None),
            seed,
        });
        let mut writers = Vec::new();
        for number in 0..WRITERS {
            let (shared, api) = (shared.clone(), east.clone());
            writers.push(spawn(move || Writer::new(shared, api, EAST, number).write_items()));
        }
        let (west_shared, api) = (shared.clone(), west.clone());
        writers.push(spawn(move || Writer::new(west_shared, api, WEST, WRITERS).write_notes()));
        for (number, side, api) in [(WRITERS + 1, EAST, east), (WRITERS + 2, WEST, west)] {
            let (shared, api) = (shared.clone(), api.clone());
            writers.push(spawn(move || Writer::new(shared, api, side, number).count()));
        }
        Ok(Load { shared, writers })
    }

    /// How many writes were acknowledged in east and in west.
    pub(crate) fn acknowledged(&self) -> [u64; 2] {
        self.shared.acknowledged.each_ref().map(|count| count.load(Ordering::SeqCst))
    }

    /// Fails if a writer did.
    pub(crate) fn check(&self) -> Result<()> {
        match self.shared.failure.lock().expect("no writer panics with it").take() {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }

    /// Ends the writers after the write each has in hand, and joins what they know.
    pub(crate) fn finish(self) -> Result<Model> {
        self.shared.stop.store(true, Ordering::SeqCst);
        let mut all = Model::default();
        for counter in COUNTERS {
            all.counters.insert(counter, 100);
        }
        for writer in self.writers {
            let part = writer.join().map_err(|_| anyhow!("a writer panicked"))??;
            all.writes += part.writes;
            all.items.extend(part.items);
            all.notes.extend(part.notes);
            for (counter, sum) in part.counters {
                *all.counters.entry(counter).or_default() += sum;
            }
        }
        Ok(all)
    }
}

fn spawn<F>(body: F) -> JoinHandle<Result<Model>>
where
    F: FnOnce() -> Result<Model> + Send + 'static,
{
    std::thread::spawn(body)
}

struct Writer {
    shared: Arc<Shared>,
    api: Api,
    side: usize,
    number: u64,
    random: Random,
    seen: Option<u64>,
    model: Model,
}

impl Writer {
    fn new(shared: Arc<Shared>, api: Api, side: usize, number: u64) -> Self {
        let random = Random::new(shared.seed.wrapping_mul(31).wrapping_add(number));
        Writer { shared, api, side, number, random, seen: None, model: Model::default() }
    }

    /// Writes until told to stop.
    fn until_stopped(mut self, mut step: impl FnMut(&mut Self) -> Result<()>) -> Result<Model> {
        while !self.shared.stop.load(Ordering::SeqCst) {
            if let Err(error) = step(&mut self) {
                let text = format!("{error:#}");
                self.shared.failure.lock().expect("no writer panics with it").replace(error);
                bail!("writer {}: {text}", self.number);
            }
        }
        Ok(self.model)
    }

    /// One write, acknowledged; each reads what this writer wrote before.
    fn write(&mut self, statement: &str, args: &Value) -> Result<Value> {
        let key = format!("{}-{}-{}", self.shared.seed, self.number, self.model.writes);
        let reply = self
            .api
            .execute_surely(statement, args, &key, self.seen)
            .with_context(|| format!("{statement} {args}"))?;
        self.seen = reply["transactionId"].as_u64().or(self.seen);
        self.model.writes += 1;
        self.shared.acknowledged[self.side].fetch_add(1, Ordering::SeqCst);
        Ok(reply)
    }

    fn write_items(self) -> Result<Model> {
        self.until_stopped(|writer| {
            let id = format!("{}-{}", writer.number, writer.random.below(DOCUMENTS));
            let amount = 1 + writer.random.below(5);
            let origin = if writer.random.below(2) == 0 { "Japan" } else { "USA" };
            let there = writer.model.items.contains_key(&id);
            match writer.random.below(8) {
                _ if !there => writer.insert_item(&id, origin),
                0 => writer.delete_item(&id),
                1 => writer.insert_again(&id),
                2..=4 => writer.set_origin(&id, origin),
                _ => writer.add_hits(&id, amount),
            }
        })
    }

    fn insert_item(&mut self, id: &str, origin: &str) -> Result<()> {
        let item = json!({"_id": id, "Origin": origin, "hits": 0, "by": {"writer": self.number}});
        self.write("INSERT INTO items DOCUMENTS (:d)", &json!({"d": item}))?;
        self.model.items.insert(id.to_owned(), item);
        Ok(())
    }

    /// An insert of what is there fails and changes nothing.
    fn insert_again(&mut self, id: &str) -> Result<()> {
        let item = json!({"_id": id, "Origin": "nowhere"});
        let statement = "INSERT INTO items DOCUMENTS (:d) ON ID CONFLICT DO NOTHING";
        self.write(statement, &json!({"d": item})).map(|_| ())
    }

    fn delete_item(&mut self, id: &str) -> Result<()> {
        self.write("DELETE FROM items WHERE _id = :id", &json!({"id": id}))?;
        self.model.items.remove(id);
        Ok(())
    }

    fn set_origin(&mut self, id: &str, origin: &str) -> Result<()> {
        let args = json!({"id": id, "o": origin});
        self.write("UPDATE items SET Origin = :o WHERE _id = :id", &args)?;
        self.model.items.get_mut(id).context("it is there")?["Origin"] = json!(origin);
        Ok(())
    }

    fn add_hits(&mut self, id: &str, amount: u64) -> Result<()> {
        let statement = format!("UPDATE items APPLY hits INCREMENT BY {amount} WHERE _id = :id");
        self.write(&statement, &json!({"id": id}))?;
        let hits = &mut self.model.items.get_mut(id).context("it is there")?["hits"];
        *hits = json!(hits.as_u64().context("a count")? + amount);
        Ok(())
    }

    /// Rounds of several documents, each new.
    fn write_notes(self) -> Result<Model> {
        self.until_stopped(|writer| {
            let notes: Vec<_> = (0..3)
                .map(|part| json!({"_id": format!("{}-{part}", writer.model.writes), "part": part}))
                .collect();
            writer.write("INSERT INTO notes DOCUMENTS (:d)", &json!({"d": notes}))?;
            let ids = notes.iter().map(|note| note["_id"].as_str().expect("text").to_owned());
            let notes: Documents = ids.zip(notes.iter().cloned()).collect();
            writer.model.notes.extend(notes);
            Ok(())
        })
    }

    /// Adds to the counters, which the other cluster does too.
    fn count(self) -> Result<Model> {
        self.until_stopped(|writer| {
            let counter = COUNTERS[writer.random.index(COUNTERS.len())];
            let amount = i64::try_from(writer.random.below(9))? - 4;
            let statement =
                format!("UPDATE shared APPLY hits INCREMENT BY {amount} WHERE _id = :id");
            writer.write(&statement, &json!({"id": counter}))?;
            *writer.model.counters.entry(counter).or_default() += amount;
            Ok(())
        })
    }
}

impl Model {
    /// Fails unless both clusters have exactly what was acknowledged and belongs there. Both must be
    /// quiet: what is wrong now is not looked at again.
    pub(crate) fn compare(&self, east: &Api, west: &Api, wanted: &str) -> Result<()> {
        let filtered: Documents = self
            .items
            .iter()
            .filter(|(_, item)| item["Origin"] == wanted)
            .map(|(id, item)| (id.clone(), item.clone()))
            .collect();
        let shared: Documents = self
            .counters
            .iter()
            .map(|(id, hits)| ((*id).to_owned(), json!({"_id": id, "hits": hits})))
            .collect();
        let mut wrong = Vec::new();
        for (api, name, collection, expected) in [
            (east, "east", "items", &self.items),
            (west, "west", "notes", &self.notes),
            (west, "west", "items", &filtered),
            (east, "east", "notes", &self.notes),
            (east, "east", "shared", &shared),
            (west, "west", "shared", &shared),
        ] {
            let found = api.documents(collection)?;
            let differences = differences(expected, &found);
            wrong.extend(differences.iter().map(|text| format!("{collection} of {name}: {text}")));
        }
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        Ok(())
    }
}

/// What `found`, by the JSON of its ids, has otherwise than expected.
fn differences(expected: &Documents, found: &Documents) -> Vec<String> {
    let expected: Documents =
        expected.iter().map(|(id, item)| (json!(id).to_string(), item.clone())).collect();
    let ids: std::collections::BTreeSet<_> = expected.keys().chain(found.keys()).collect();
    ids.into_iter()
        .filter(|id| expected.get(*id) != found.get(*id))
        .map(|id| format!("{id}: expected {:?}, found {:?}", expected.get(id), found.get(id)))
        .collect()
}

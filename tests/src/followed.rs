//! What somebody keeps who follows a live query: rows, as its events say. What no server may send is an
//! error.

use std::collections::HashSet;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// The rows of a live query, and how far they are.
#[derive(Debug, Default)]
pub struct Followed {
    /// The last transaction that it was told of.
    pub txn: Option<u64>,
    /// How many results and changes came.
    pub events: (usize, usize),
    /// What the events said, without their transactions.
    pub told: Vec<Value>,
    /// The id of the last event.
    id: String,
    /// Rows in order: the JSON of the document's `_id`, `null` if a row is of more than one, and the row.
    rows: Vec<(String, Value)>,
    /// An event of which more is to come.
    event: Event,
}

/// What a whole event said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// What the rows are now.
    Rows,
    /// How far they are.
    Progress,
    /// Why no more will come.
    End(String),
}

/// An event as it came.
#[derive(Debug, Default)]
struct Event {
    name: String,
    id: Option<(u64, String)>,
    data: String,
}

impl Followed {
    /// The rows, in order.
    pub fn rows(&self) -> impl Iterator<Item = &Value> {
        self.rows.iter().map(|(_, row)| row)
    }

    /// What to say when coming back.
    pub fn last_event_id(&self) -> Option<&str> {
        self.txn.map(|_| self.id.as_str())
    }

    /// A connection is lost: what came of an event is no event.
    pub fn disconnect(&mut self) {
        self.event = Event::default();
    }

    /// Takes a line that came; says what, if it is the end of an event.
    pub fn take_line(&mut self, line: &str) -> Result<Option<Heard>> {
        match line.split_once(": ") {
            Some(("event", name)) => name.clone_into(&mut self.event.name),
            Some(("data", data)) => self.event.data += data,
            Some(("id", text)) => {
                let (txn, _tag) = text.split_once('-').context("an id has a tag")?;
                self.event.id = Some((txn.parse()?, text.to_owned()));
            }
            Some(("retry", _)) => {}
            Some(other) => bail!("{other:?} is no field"),
            None if line.is_empty() => {
                let event = std::mem::take(&mut self.event);
                // What only keeps the connection says nothing.
                let says_something = event.id.is_some() || !event.name.is_empty();
                return says_something.then(|| self.take(event)).transpose();
            }
            None => ensure!(line.starts_with(':'), "{line} is no field"),
        }
        Ok(None)
    }

    fn take(&mut self, event: Event) -> Result<Heard> {
        let Event { name, id, data } = event;
        if name == "end" {
            return Ok(Heard::End(data));
        }
        let (txn, id) = id.unzip();
        ensure!(txn.is_none() || txn >= self.txn, "{txn:?} came after {:?}", self.txn);
        if let Some(id) = id {
            self.id = id;
        }
        if data.is_empty() {
            self.txn = txn.or(self.txn);
            return Ok(Heard::Progress);
        }
        let data: Value = serde_json::from_str(&data)?;
        ensure!(data["transactionId"].as_u64() == txn, "{data} is not of {txn:?}");
        match &*name {
            "result" => {
                let items = data["items"].as_array().context("items")?;
                self.rows = items.iter().map(|row| (row["_id"].to_string(), row.clone())).collect();
                self.events.0 += 1;
            }
            "change" => {
                ensure!(txn > self.txn, "{data} came although it was told of {:?}", self.txn);
                self.apply(data["changes"].as_array().context("changes")?)?;
                self.events.1 += 1;
            }
            other => bail!("'{other}' is no event"),
        }
        let Value::Object(mut data) = data else { bail!("{data} is no object") };
        data.remove("transactionId");
        self.told.push(Value::Object(data));
        self.txn = txn;
        Ok(Heard::Rows)
    }

    fn apply(&mut self, changes: &[Value]) -> Result<()> {
        let named: HashSet<_> = changes.iter().map(|change| change["_id"].to_string()).collect();
        self.rows.retain(|(id, _)| !named.contains(id));
        for change in changes.iter().filter(|change| change["type"] == "set") {
            let id = change["_id"].to_string();
            let place = match change.get("after") {
                None => self.rows.partition_point(|(other, _)| *other < id),
                Some(Value::Null) => 0,
                Some(after) => {
                    let after = after.to_string();
                    let before = self.rows.iter().position(|(other, _)| *other == after);
                    1 + before.with_context(|| format!("{change} stands behind nothing"))?
                }
            };
            self.rows.insert(place, (id, change["item"].clone()));
        }
        Ok(())
    }
}

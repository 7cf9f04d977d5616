//! A client of live queries, as a user would write it: it keeps rows by what events say, and comes back
//! behind the last one, to any server.

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use reqwest::Url;
use reqwest::blocking::{Client, Response};
use serde_json::Value;

use super::{APP, Api, PATIENCE, plain_client};

/// How long it listens on one connection.
const LISTENS: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_millis(50);

/// Somebody who follows a query.
#[derive(Debug)]
pub struct Follower {
    client: Client,
    /// Where the API of each server is.
    servers: Vec<String>,
    app: String,
    key: Option<String>,
    query: String,
    stream: Option<BufReader<Response>>,
    /// How often it connected.
    pub connections: usize,
    /// How many results and changes came.
    pub events: (usize, usize),
    /// The last transaction that it was told of.
    pub txn: Option<u64>,
    /// The id of that event.
    id: String,
    /// What the events said, without their transactions.
    pub told: Vec<Value>,
    /// Rows in order: the JSON of the document's `_id`, `null` if a row is of more than one, and the row.
    rows: Vec<(String, Value)>,
}

/// An event as it came.
#[derive(Debug, Default)]
struct Event {
    name: String,
    id: String,
    data: String,
}

impl Follower {
    /// Follows a query at these servers, which are asked in turns.
    pub fn new(servers: &[Api], query: &str) -> Result<Self> {
        Ok(Follower {
            client: plain_client().timeout(LISTENS).build()?,
            servers: servers.iter().map(|server| server.url().to_owned()).collect(),
            app: APP.to_owned(),
            key: None,
            query: query.to_owned(),
            stream: None,
            connections: 0,
            events: (0, 0),
            txn: None,
            id: String::new(),
            told: Vec::new(),
            rows: Vec::new(),
        })
    }

    /// The same in another app, showing a key of that.
    #[must_use]
    pub fn of_app(self, app: &str, key: &str) -> Self {
        Follower { app: app.to_owned(), key: Some(key.to_owned()), ..self }
    }

    /// The rows, in order.
    pub fn rows(&self) -> impl Iterator<Item = &Value> {
        self.rows.iter().map(|(_, row)| row)
    }

    /// Waits until something was said, whatever breaks meanwhile.
    pub fn listen(&mut self) -> Result<()> {
        let began = Instant::now();
        loop {
            match self.try_listen() {
                Ok(true) => return Ok(()),
                // The connection broke, or the server said that it will.
                Ok(false) => {}
                Err(error) if error.is::<std::io::Error>() || error.is::<reqwest::Error>() => {
                    ensure!(began.elapsed() < PATIENCE, "nothing comes: {error:#}");
                }
                Err(error) => return Err(error),
            }
            self.stream = None;
            std::thread::sleep(AGAIN);
        }
    }

    /// Whether something was said before the connection ended.
    fn try_listen(&mut self) -> Result<bool> {
        if self.stream.is_none() && !self.connect()? {
            return Ok(false);
        }
        let stream = self.stream.as_mut().context("a connection")?;
        let (mut event, mut id, mut line) = (Event::default(), None, String::new());
        loop {
            line.clear();
            if stream.read_line(&mut line)? == 0 {
                return Ok(false);
            }
            match line.trim_end().split_once(": ") {
                Some(("event", name)) => event.name = name.to_owned(),
                Some(("data", data)) => event.data += data,
                Some(("id", text)) => {
                    let (txn, _tag) = text.split_once('-').context("an id has a tag")?;
                    id = Some(txn.parse()?);
                    event.id = text.to_owned();
                }
                Some(("retry", _)) => {}
                Some(other) => bail!("{other:?} is no field"),
                None if line.trim_end().is_empty() => break,
                None => ensure!(line.starts_with(':'), "{line} is no field"),
            }
        }
        if event.name == "end" {
            return Ok(false);
        }
        self.take(&event, id)?;
        Ok(true)
    }

    /// Whether a server lets it follow.
    fn connect(&mut self) -> Result<bool> {
        let server = &self.servers[self.connections % self.servers.len()];
        self.connections += 1;
        let url = format!("{server}/apps/{}/api/v1/store/subscribe", self.app);
        let mut request = self.client.get(Url::parse_with_params(&url, [("query", &self.query)])?);
        if self.txn.is_some() {
            request = request.header("Last-Event-ID", &self.id);
        }
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        let reply = request.send()?;
        let status = reply.status();
        if status.is_server_error() {
            return Ok(false);
        }
        ensure!(status.is_success(), "HTTP {status}: {}", reply.text()?);
        self.stream = Some(BufReader::new(reply));
        Ok(true)
    }

    fn take(&mut self, event: &Event, id: Option<u64>) -> Result<()> {
        ensure!(id.is_none() || id >= self.txn, "{id:?} came after {:?}", self.txn);
        if id.is_some() {
            self.id = event.id.clone();
        }
        if event.data.is_empty() {
            self.txn = id.or(self.txn);
            return Ok(());
        }
        let data: Value = serde_json::from_str(&event.data)?;
        ensure!(data["transactionId"].as_u64() == id, "{data} is not of {id:?}");
        match &*event.name {
            "result" => {
                let items = data["items"].as_array().context("items")?;
                self.rows = items.iter().map(|row| (row["_id"].to_string(), row.clone())).collect();
                self.events.0 += 1;
            }
            "change" => {
                ensure!(id > self.txn, "{data} came although it was told of {:?}", self.txn);
                self.apply(data["changes"].as_array().context("changes")?)?;
                self.events.1 += 1;
            }
            other => bail!("'{other}' is no event"),
        }
        let Value::Object(mut data) = data else { bail!("{data} is no object") };
        data.remove("transactionId");
        self.told.push(Value::Object(data));
        self.txn = id;
        Ok(())
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

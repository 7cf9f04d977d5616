//! A client of live queries: it comes back behind the last event that came, to any server.

use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use reqwest::Url;
use reqwest::blocking::{Client, Response};

use super::{APP, Api, PATIENCE, plain_client};
use crate::followed::{Followed, Heard};

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
    /// The rows that it has.
    pub followed: Followed,
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
            followed: Followed::default(),
        })
    }

    /// The same in another app, showing a key of that.
    #[must_use]
    pub fn of_app(self, app: &str, key: &str) -> Self {
        Follower { app: app.to_owned(), key: Some(key.to_owned()), ..self }
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
            self.followed.disconnect();
            std::thread::sleep(AGAIN);
        }
    }

    /// Whether something was said before the connection ended.
    fn try_listen(&mut self) -> Result<bool> {
        if self.stream.is_none() && !self.connect()? {
            return Ok(false);
        }
        let stream = self.stream.as_mut().context("a connection")?;
        let mut line = String::new();
        loop {
            line.clear();
            if stream.read_line(&mut line)? == 0 {
                return Ok(false);
            }
            match self.followed.take_line(line.trim_end())? {
                None => {}
                Some(Heard::Rows | Heard::Progress) => return Ok(true),
                Some(Heard::End(_)) => return Ok(false),
            }
        }
    }

    /// Whether a server lets it follow.
    fn connect(&mut self) -> Result<bool> {
        let server = &self.servers[self.connections % self.servers.len()];
        self.connections += 1;
        let url = format!("{server}/apps/{}/api/v1/store/subscribe", self.app);
        let mut request = self.client.get(Url::parse_with_params(&url, [("query", &self.query)])?);
        if let Some(id) = self.followed.last_event_id() {
            request = request.header("Last-Event-ID", id);
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
}

//! A client of one cluster's HTTP API, as a user would write it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use reqwest::blocking::{Client, ClientBuilder, RequestBuilder};
use reqwest::header::{AUTHORIZATION, HeaderValue};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};

use super::{ADMIN_KEY, APP, PATIENCE};

const TXN_HEADER: &str = "X-Anabranch-Txn-Id";
/// How long one request may take.
const REQUEST_LIMIT: Duration = Duration::from_secs(15);

/// What makes clients of servers without TLS. Since the program's own client is built with one that
/// has to be configured, so has this.
pub fn plain_client() -> ClientBuilder {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let tls = tls.expect("the provider has the versions");
    let tls = tls.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    Client::builder().tls_backend_preconfigured(tls)
}

/// A client of one cluster.
#[derive(Clone, Debug)]
pub struct Api {
    client: Client,
    base: String,
    admin: String,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The body; text that is not JSON is a string.
    pub body: Value,
    /// The transaction that was written, or else the last one that was read.
    pub txn: Option<u64>,
    /// Of one document: the transaction that wrote it last.
    pub version: Option<u64>,
}

/// What a request says beside what it asks for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Terms<'a> {
    /// The last transaction that the client has seen.
    pub token: Option<u64>,
    /// Under which it may be repeated.
    pub key: Option<&'a str>,
    /// What is changed has to be unchanged since this transaction.
    pub unchanged_since: Option<u64>,
    /// When the client gives up, if before it usually would.
    pub limit: Option<Duration>,
}

impl Terms<'_> {
    /// At this transaction or later, if there is one.
    pub fn at(token: Option<u64>) -> Self {
        Terms { token, ..Terms::default() }
    }

    fn add_to(&self, request: RequestBuilder) -> RequestBuilder {
        let Terms { token, key, unchanged_since, limit } = *self;
        let mut request = request;
        if let Some(token) = token {
            request = request.header(TXN_HEADER, token);
        }
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        if let Some(since) = unchanged_since {
            request = request.header("X-Anabranch-If-Match", since);
        }
        if let Some(limit) = limit {
            let millis = limit.as_millis().to_string();
            request = request.timeout(limit).header("X-Anabranch-Timeout-Ms", millis);
        }
        request
    }
}

impl Reply {
    /// The stable code of an error.
    pub fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or("")
    }

    /// Whether the same request may be sent again under the same key.
    pub fn may_be_repeated(&self) -> bool {
        matches!(self.status, 429 | 500..)
    }

    /// The body, if the request succeeded.
    pub fn success(self) -> Result<Value> {
        ensure!(self.status < 300, "HTTP {}: {}", self.status, self.body);
        Ok(self.body)
    }
}

impl Api {
    /// A client of the cluster with these two ports on the loopback.
    pub fn new(http: u16, admin: u16) -> Self {
        let client = plain_client().timeout(REQUEST_LIMIT).build().expect("a plain client");
        Api {
            client,
            base: format!("http://127.0.0.1:{http}"),
            admin: format!("http://127.0.0.1:{admin}"),
        }
    }

    /// The same, which shows the key in a file.
    pub fn showing_key_in(self, file: &Path) -> Result<Self> {
        let key = fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        let shown = HeaderValue::try_from(format!("Bearer {}", key.trim()))?;
        let client = plain_client().timeout(REQUEST_LIMIT);
        let client = client.default_headers([(AUTHORIZATION, shown)].into_iter().collect());
        Ok(Api { client: client.build()?, ..self })
    }

    /// Where its HTTP API is.
    pub fn url(&self) -> &str {
        &self.base
    }

    /// Where its admin API is.
    pub fn admin_url(&self) -> &str {
        &self.admin
    }

    /// Whether `/readyz` says so.
    pub fn is_ready(&self) -> bool {
        self.succeeds(&format!("{}/readyz", self.base))
    }

    /// Whether `/readyz` of the admin address says so.
    pub fn is_admin_ready(&self) -> bool {
        self.succeeds(&format!("{}/readyz", self.admin))
    }

    fn succeeds(&self, url: &str) -> bool {
        self.client.get(url).send().is_ok_and(|reply| reply.status().is_success())
    }

    /// Runs a statement once.
    pub fn try_execute(&self, statement: &str, args: &Value) -> Result<Reply> {
        self.try_execute_on(statement, args, &Terms::default())
    }

    /// Runs a statement once, on these terms.
    pub fn try_execute_on(
        &self,
        statement: &str,
        args: &Value,
        terms: &Terms<'_>,
    ) -> Result<Reply> {
        send(terms.add_to(self.request(statement, args)))
    }

    fn request(&self, statement: &str, args: &Value) -> RequestBuilder {
        let url = format!("{}/apps/{APP}/api/v1/store/execute", self.base);
        self.client.post(url).json(&json!({"statement": statement, "args": args}))
    }

    /// Sends this body to `store/execute`.
    pub fn ask(&self, body: &Value) -> Result<Reply> {
        let url = format!("{}/apps/{APP}/api/v1/store/execute", self.base);
        send(self.client.post(url).json(body))
    }

    /// Runs a statement, which must succeed.
    pub fn execute(&self, statement: &str, args: &Value) -> Result<Value> {
        self.try_execute(statement, args)?.success()
    }

    /// Runs several statements as one.
    pub fn transact(&self, statements: &Value) -> Result<Reply> {
        let url = format!("{}/apps/{APP}/api/v1/store/transaction", self.base);
        send(self.client.post(url).json(&json!({ "statements": statements })))
    }

    /// Runs a statement, reading at least at `seen`, until it is acknowledged, whatever dies
    /// meanwhile: always under the same key, so that it is applied once.
    pub fn execute_surely(
        &self,
        statement: &str,
        args: &Value,
        key: &str,
        seen: Option<u64>,
    ) -> Result<Value> {
        let start = std::time::Instant::now();
        let terms = Terms { key: Some(key), ..Terms::at(seen) };
        loop {
            let last = match self.try_execute_on(statement, args, &terms) {
                Ok(reply) if reply.may_be_repeated() => format!("HTTP {reply:?}"),
                Ok(reply) => return reply.success(),
                Err(error) => format!("{error:#}"),
            };
            if start.elapsed() > PATIENCE {
                bail!("not acknowledged within {PATIENCE:?}: {last}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Loads documents in bulk.
    pub fn load(&self, collection: &str, ndjson: String) -> Result<Reply> {
        let path = format!("apps/{APP}/api/v1/collections/{collection}/documents");
        let request = self.client.post(format!("{}/{path}", self.base));
        send(request.header("Content-Type", "application/x-ndjson").body(ndjson))
    }

    /// One document, or `None`.
    pub fn get(&self, collection: &str, id: &str) -> Result<Option<Value>> {
        found(self.try_get_on(collection, id, &Terms::default())?)
    }

    /// One document as it is at transaction `txn` or later.
    pub fn get_at(&self, collection: &str, id: &str, txn: u64) -> Result<Option<Value>> {
        found(self.try_get_on(collection, id, &Terms::at(Some(txn)))?)
    }

    /// Asks for one document once, on these terms.
    pub fn try_get_on(&self, collection: &str, id: &str, terms: &Terms<'_>) -> Result<Reply> {
        let path = format!("apps/{APP}/api/v1/collections/{collection}/documents/{id}");
        send(terms.add_to(self.client.get(format!("{}/{path}", self.base))))
    }

    /// All documents of a collection as they are at the end of the log, by the JSON of their ids.
    /// Fails if an id is there twice.
    pub fn documents(&self, collection: &str) -> Result<BTreeMap<String, Value>> {
        let statement = format!("SELECT * FROM {collection}");
        let end = self.status()?["logEnd"].as_u64().context("the end of the log")?;
        let terms = Terms::at(end.checked_sub(1));
        let body = self.try_execute_on(&statement, &json!({}), &terms)?.success()?;
        let mut documents = BTreeMap::new();
        for item in body["items"].as_array().context("items")? {
            let other = documents.insert(item["_id"].to_string(), item.clone());
            ensure!(other.is_none(), "{} is in {collection} twice: {other:?}, {item}", item["_id"]);
        }
        Ok(documents)
    }

    /// Declares a resource.
    pub fn apply(&self, resource: &Value) -> Result<()> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let kind = text(&resource["kind"]).to_lowercase();
        let (app, name) = (&resource["metadata"]["app"], &resource["metadata"]["name"]);
        let path: Vec<_> =
            [app, name].into_iter().filter(|part| part.is_string()).map(text).collect();
        let url = format!("{}/api/v1/resources/{kind}/{}", self.admin, path.join("/"));
        let put = self.client.put(url).bearer_auth(ADMIN_KEY.trim());
        send(put.json(resource))?.success().map(|_| ())
    }

    /// Declares what this cluster wants from the other side, collection by collection, and whom to
    /// dial for it.
    pub fn replicate(&self, connections: &[&str], queries: &[(&str, &str)]) -> Result<()> {
        let queries: serde_json::Map<_, _> = queries
            .iter()
            .map(|(collection, predicate)| ((*collection).to_owned(), json!([predicate])))
            .collect();
        self.apply(&json!({
            "apiVersion": "anabranch/v1",
            "kind": "Replication",
            "metadata": {"name": "other-side", "app": APP},
            "spec": {
                "connections": connections,
                "subscriptions": {"queriesByCollection": queries},
            },
        }))
    }

    /// What `/metrics` of the admin address says.
    pub fn metrics(&self) -> Result<String> {
        let reply = self.client.get(format!("{}/metrics", self.admin)).send()?;
        Ok(reply.error_for_status()?.text()?)
    }

    /// What `anabranch status` shows.
    pub fn status(&self) -> Result<Value> {
        send(self.client.get(format!("{}/api/v1/status", self.admin)))?.success()
    }
}

/// The document of a reply, or `None`.
fn found(reply: Reply) -> Result<Option<Value>> {
    if reply.status == 404 { Ok(None) } else { reply.success().map(Some) }
}

fn send(request: RequestBuilder) -> Result<Reply> {
    let reply = request.send()?;
    let status = reply.status().as_u16();
    let number = |name: &str| -> Option<u64> {
        let value = reply.headers().get(name)?.to_str().ok()?;
        value.trim_matches('"').parse().ok()
    };
    let (txn, version) = (number(TXN_HEADER), number("ETag"));
    let text = reply.text()?;
    let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
    Ok(Reply { status, body, txn, version })
}

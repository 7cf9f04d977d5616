//! A client of the HTTP APIs: turns what can go wrong into messages with hints and exit codes, and
//! repeats what may be repeated.

#[cfg(test)]
mod tests;
mod trust;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anabranch_ingest::{ApiToken, ShownKey};
use anabranch_runtime::retry::Backoff;
use anyhow::{Context, Result};
use reqwest::header::{LOCATION, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::failure::{Exit, Failure};
use crate::key_file;

pub(crate) use trust::TrustFlags;

/// How long anything but a bulk load may take until its reply is read. A server answers within its
/// own deadlines, unless it hangs.
const REQUEST: Duration = Duration::from_secs(60);

/// The app that `anabranch dev` and the examples use.
pub(crate) const EXAMPLE_APP: Uuid = Uuid::from_u128(0x2164bef3_37c0_489c_9ac6_c94b034525d7);

/// Where to find a server's HTTP API.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ApiFlags {
    /// The server's HTTP API.
    #[arg(long, value_name = "URL", env = "ANABRANCH_SERVER")]
    #[arg(default_value = "http://127.0.0.1:8080")]
    pub(crate) server: String,
    /// The app whose documents are meant.
    #[arg(long, value_name = "UUID", env = "ANABRANCH_APP", default_value_t = EXAMPLE_APP)]
    pub(crate) app: Uuid,
    #[command(flatten)]
    key: KeyFlags,
}

impl ApiFlags {
    /// A client of the server.
    pub(crate) fn client(&self) -> Result<Client> {
        self.key.client(&self.server)
    }
}

/// Which key to show.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct KeyFlags {
    /// A key of the app, or a token that opens one; or the variable ANABRANCH_KEY. Without any, that of
    /// a cluster of 'anabranch dev' on this machine is shown to it, if its data is in this folder.
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// A file with a key of the app, or with a token; or the variable ANABRANCH_KEY_FILE.
    #[arg(long, value_name = "FILE", conflicts_with = "key")]
    key_file: Option<PathBuf>,
    #[command(flatten)]
    trust: TrustFlags,
}

/// The variables that say what [`KeyFlags`] do not.
pub(crate) const KEY_VARIABLES: [&str; 2] = ["ANABRANCH_KEY", "ANABRANCH_KEY_FILE"];

/// Where `anabranch dev` keeps its key, by default and in the demo.
const DEV_KEYS: [&str; 2] = ["anabranch-data/dev.key", "anabranch-demo/dev.key"];

impl KeyFlags {
    /// A client of a server that shows the key.
    pub(crate) fn client(&self, server: &str) -> Result<Client> {
        let client = Client::new(server, &self.trust)?;
        let of_environment = KEY_VARIABLES.map(std::env::var_os);
        let (key, file) = match (&self.key, &self.key_file, of_environment) {
            (None, None, [Some(key), _]) => (key.into_string().ok(), None),
            (None, None, [None, file]) => (None, file.map(PathBuf::from)),
            (key, file, _) => (key.clone(), file.clone()),
        };
        let key: Option<ShownKey> = match (&key, &file) {
            (Some(key), _) => key
                .trim()
                .parse()
                .map(Some)
                .map_err(|error| Failure::usage(format!("the key cannot be used: {error}")))?,
            (None, Some(path)) => Some(key_file::read(path)?),
            (None, None) => {
                found_here(&client, DEV_KEYS).map(|file| key_file::read(&file)).transpose()?
            }
        };
        Ok(match key {
            Some(key) => client.showing(key),
            None => client,
        })
    }
}

/// Where to find a server's admin API.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct AdminFlags {
    /// The admin address of an ingest server.
    #[arg(long, value_name = "URL", env = "ANABRANCH_ADMIN_SERVER")]
    #[arg(default_value = "http://127.0.0.1:8081")]
    pub(crate) server: String,
    /// The file with its admin key; or the variable ANABRANCH_ADMIN_KEY_FILE. Without any, that of a
    /// cluster of 'anabranch dev' on this machine is shown to it, if its data is in this folder.
    #[arg(long, value_name = "FILE")]
    admin_key_file: Option<PathBuf>,
    #[command(flatten)]
    trust: TrustFlags,
}

/// Where `anabranch dev` keeps the admin key, by default and in the demo.
const ADMIN_KEYS: [&str; 2] = ["anabranch-data/admin.key", "anabranch-demo/admin.key"];

impl AdminFlags {
    /// A client of the server that shows the key.
    pub(crate) fn client(&self) -> Result<Client> {
        let client = Client::new(&self.server, &self.trust)?;
        let file = self.admin_key_file.clone();
        let file = file.or_else(|| std::env::var_os("ANABRANCH_ADMIN_KEY_FILE").map(PathBuf::from));
        let file = file.or_else(|| found_here(&client, ADMIN_KEYS));
        Ok(match file {
            Some(file) => client.showing(&key_file::read::<ApiToken>(&file)?),
            None => client,
        })
    }
}

/// The first of some files that there is, if the server is on this machine.
fn found_here(client: &Client, files: [&str; 2]) -> Option<PathBuf> {
    let mut files = files.into_iter().map(PathBuf::from);
    files.find(|file| is_here(&client.server) && file.exists())
}

/// An HTTP API.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    server: String,
    key: Option<ShownKey>,
}

/// What became of a statement.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Executed {
    pub(crate) transaction_id: Option<u64>,
    pub(crate) items: Vec<Value>,
    pub(crate) mutated_document_ids: Vec<Value>,
    pub(crate) warnings: Vec<Value>,
}

#[derive(Deserialize)]
struct ErrorReply {
    error: ErrorBody,
}

#[derive(Deserialize)]
struct ErrorBody {
    code: String,
    message: String,
    hint: Option<String>,
}

impl Client {
    /// One of the server at a URL, which has to be trusted if that begins with https.
    pub(crate) fn new(server: &str, trust: &TrustFlags) -> Result<Self> {
        let server = server.trim_end_matches('/').to_owned();
        let server = if server.contains("://") { server } else { format!("http://{server}") };
        let url = reqwest::Url::parse(&server)
            .ok()
            .filter(|url| ["http", "https"].contains(&url.scheme()) && url.has_host())
            .ok_or_else(|| {
                Failure::usage(format!("'{server}' is not the address of a server"))
                    .with_hint("write it as http://HOST:PORT or https://HOST:PORT")
            })?;
        // Servers of ours send nobody elsewhere, and a key is for the server that was named.
        let mut http = reqwest::Client::builder()
            .tls_backend_preconfigured(trust.config(url.scheme() == "https")?)
            .redirect(Policy::none())
            .connect_timeout(Duration::from_secs(5))
            .tcp_nodelay(true);
        // What is for a server on this machine goes to nobody else.
        if is_here(&server) {
            http = http.no_proxy();
        }
        let http = http.build().context("make an HTTP client")?;
        Ok(Client { http, server, key: None })
    }

    /// The same, which shows a key with each request.
    pub(crate) fn showing(self, key: impl Into<ShownKey>) -> Self {
        Client { key: Some(key.into()), ..self }
    }

    pub(crate) fn server(&self) -> &str {
        &self.server
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.unlimited(method, path).timeout(REQUEST)
    }

    /// A request that may take as long as it moves, such as a bulk load.
    pub(crate) fn unlimited(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.server));
        match &self.key {
            Some(key) => request.bearer_auth(key.reveal()),
            None => request,
        }
    }

    /// Sends once.
    pub(crate) async fn send(&self, request: RequestBuilder) -> Result<Response> {
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        if response.status().is_success() {
            Ok(response)
        } else {
            Err(refusal(response).await.into())
        }
    }

    /// Sends and reads the reply as JSON.
    pub(crate) async fn json<T: serde::de::DeserializeOwned>(
        &self,
        request: RequestBuilder,
    ) -> Result<T> {
        let body = self.send(request).await?.bytes().await;
        let body = body.map_err(|error| self.unreachable(&error))?;
        serde_json::from_slice(&body).with_context(|| {
            format!("read the reply of {}: is it an Anabranch server?", self.server)
        })
    }

    /// Sends until it is answered with something other than "try again", for up to `patience`.
    /// The request must be one that may be repeated.
    pub(crate) async fn send_patiently(
        &self,
        request: impl Fn() -> RequestBuilder,
        patience: Duration,
        mut on_wait: impl FnMut(&str),
    ) -> Result<Response> {
        let begun = Instant::now();
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        loop {
            let (failure, asked) = match request().send().await {
                Ok(response) if response.status().is_success() => return Ok(response),
                Ok(response) => {
                    let again = may_be_sent_again(response.status());
                    let asked = retry_after(&response);
                    let failure = refusal(response).await;
                    if !again {
                        return Err(failure.into());
                    }
                    (failure, asked)
                }
                Err(error) => {
                    let failure = self.unreachable(&error);
                    // A server that is not trusted now is not in a minute.
                    if failure.exit == Exit::Failed {
                        return Err(failure.into());
                    }
                    (failure, None)
                }
            };
            let delay = asked.unwrap_or_default().max(backoff.next_delay());
            if begun.elapsed() + delay > patience {
                return Err(failure.into());
            }
            on_wait(&failure.message);
            tokio::time::sleep(delay).await;
        }
    }

    /// Runs a statement, once.
    pub(crate) async fn execute(
        &self,
        app: Uuid,
        statement: &str,
        args: &Value,
    ) -> Result<Executed> {
        self.json(self.statement(app, statement, args)).await
    }

    /// The request that runs a statement.
    pub(crate) fn statement(&self, app: Uuid, statement: &str, args: &Value) -> RequestBuilder {
        let path = format!("/apps/{app}/api/v1/store/execute");
        let body = json!({ "statement": statement, "args": args });
        self.request(Method::POST, &path).json(&body)
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        let server = &self.server;
        if error.is_connect() {
            return trust::explain(error, server).unwrap_or_else(|| {
                Failure::new(Exit::Unavailable, format!("cannot connect to {server}"))
                    .with_hint("is it running? --server names another one")
            });
        }
        let cause = match error.is_timeout() {
            true => "it took too long".to_owned(),
            false => root_cause(error),
        };
        Failure::new(Exit::Unknown, format!("no whole reply from {server}: {cause}"))
            .with_hint("the request may have been done; read back before repeating it")
    }
}

/// Whether a server is on this machine.
fn is_here(server: &str) -> bool {
    let url = reqwest::Url::parse(server).ok();
    let host = url.as_ref().and_then(|url| url.host_str()).unwrap_or_default();
    let ip = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

fn may_be_sent_again(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS
            | StatusCode::REQUEST_TIMEOUT
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
            | StatusCode::INSUFFICIENT_STORAGE
    )
}

fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    seconds.parse().ok().map(Duration::from_secs)
}

/// The error that a server told.
async fn refusal(response: Response) -> Failure {
    let status = response.status();
    let elsewhere = response.headers().get(LOCATION).and_then(|url| url.to_str().ok());
    if let (true, Some(url)) = (status.is_redirection(), elsewhere) {
        return Failure::new(Exit::Failed, format!("the server answered {status}: go to {url}"))
            .with_hint("if that is the one you mean, name it with --server: it gets your key");
    }
    let body = response.bytes().await.unwrap_or_default();
    let (code, message, hint) = match serde_json::from_slice::<ErrorReply>(&body) {
        Ok(ErrorReply { error: ErrorBody { code, message, hint } }) => (code, message, hint),
        Err(_) => {
            let text = String::from_utf8_lossy(&body);
            (String::new(), format!("the server answered {status}: {}", text.trim()), None)
        }
    };
    let exit = match status {
        _ if code == "outcome_unknown" => Exit::Unknown,
        status if may_be_sent_again(status) => Exit::Unavailable,
        status if status.is_client_error() => Exit::Refused,
        _ => Exit::Failed,
    };
    let message = if code.is_empty() { message } else { format!("{message} [{code}]") };
    Failure { exit, message, hint }
}

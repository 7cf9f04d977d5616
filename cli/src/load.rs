//! `anabranch load`: many documents from a file.
//!
//! Documents go to the bulk endpoint in chunks, one after the other. Each chunk has a key of its
//! own under which it is sent again if the server is overloaded, away, or its answer got lost: no
//! chunk is written twice. Rows without `_id` are numbered, so the same file loaded twice names the
//! same documents, and an equal document is not written again.

mod rows;

use std::io::BufRead;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::client::{ApiFlags, Client};
use crate::failure::{Exit, Failure};
use crate::output::{print, say};
use rows::Row;

/// A chunk is sent when it has as many documents or as many bytes.
const CHUNK_DOCUMENTS: usize = 10_000;
const CHUNK_BYTES: usize = 8 << 20;

/// Refused rows of which no more than so many are shown.
const SHOWN_REFUSALS: usize = 20;

/// Load documents from a file: a JSON array, or JSON documents one a line. Documents that are there
/// already are updated; those that are equal stay as they are.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The file; '-' reads stdin.
    file: PathBuf,
    /// The collection to load into.
    #[arg(long, short)]
    collection: String,
    /// The field that is the id. Without it, documents that have no '_id' are numbered:
    /// row-000001, row-000002 and so on.
    #[arg(long, value_name = "FIELD")]
    id: Option<String>,
    /// How long to keep trying when the server is overloaded or away, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    patience: u64,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    api: ApiFlags,
}

/// Where documents go.
pub(crate) struct Target<'a> {
    pub(crate) client: &'a Client,
    pub(crate) app: Uuid,
    pub(crate) collection: &'a str,
    /// The field that is the id.
    pub(crate) id: Option<&'a str>,
    pub(crate) patience: Duration,
}

/// What became of a load.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Summary {
    /// Documents taken, equal ones included.
    pub(crate) written: u64,
    /// Documents refused.
    pub(crate) refused: u64,
    /// The last transaction that wrote some.
    pub(crate) transaction_id: Option<u64>,
}

/// A row that was refused.
pub(crate) struct Refused {
    /// From 1: the line, or the item of an array.
    pub(crate) line: u64,
    pub(crate) message: String,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let Args { file, collection, id, patience, json, api } = args;
    let client = api.client()?;
    let (reader, bytes) = open(&file)?;
    let target = Target {
        client: &client,
        app: api.app,
        collection: &collection,
        id: id.as_deref(),
        patience: Duration::from_secs(patience),
    };
    let bar = progress_bar(bytes)?;
    let mut shown = 0;
    let summary = load(&target, reader, |event| match event {
        Event::Sent { bytes, documents } => {
            bar.inc(bytes);
            bar.set_message(format!("{documents} documents"));
        }
        Event::Waiting(why) => bar.set_message(format!("waiting: {why}")),
        Event::Refused(Refused { line, message }) => {
            shown += 1;
            if shown <= SHOWN_REFUSALS {
                bar.suspend(|| say(format_args!("{}:{line}: {message}", file.display())));
            }
        }
    })
    .await;
    bar.finish_and_clear();
    let summary = summary.with_context(|| format!("load {}", file.display()))?;
    report(&summary, &collection, json)
}

fn report(summary: &Summary, collection: &str, json: bool) -> Result<()> {
    let Summary { written, refused, transaction_id } = summary;
    if json {
        print(serde_json::to_string(summary)?)?;
    } else {
        let txn = transaction_id.map(|txn| format!("; last transaction {txn}"));
        let txn = txn.unwrap_or_default();
        print(format_args!(
            "{written} documents loaded into {collection}, {refused} refused{txn}"
        ))?;
    }
    if *refused == 0 {
        return Ok(());
    }
    let failure = Failure::new(Exit::Refused, format!("{refused} documents were refused"))
        .with_hint("correct them and load the file again: equal documents are not written twice");
    Err(failure.into())
}

type Input = Box<dyn BufRead + Send>;

fn open(file: &std::path::Path) -> Result<(Input, Option<u64>)> {
    if file.as_os_str() == "-" {
        return Ok((Box::new(std::io::BufReader::new(std::io::stdin())), None));
    }
    let opened = std::fs::File::open(file)
        .map_err(|error| Failure::usage(format!("read {}: {error}", file.display())))?;
    let bytes = opened.metadata().ok().filter(std::fs::Metadata::is_file).map(|file| file.len());
    Ok((Box::new(std::io::BufReader::with_capacity(1 << 20, opened)), bytes))
}

fn progress_bar(bytes: Option<u64>) -> Result<ProgressBar> {
    let (bar, template) = match bytes {
        Some(bytes) => (
            ProgressBar::new(bytes),
            "[{bar:30}] {bytes}/{total_bytes} {msg} {bytes_per_sec} eta {eta}",
        ),
        None => (ProgressBar::new_spinner(), "{spinner} {bytes} {msg} {bytes_per_sec}"),
    };
    bar.set_style(ProgressStyle::with_template(template)?.progress_chars("=> "));
    Ok(bar)
}

/// What happens during a load.
pub(crate) enum Event {
    /// A chunk was taken.
    Sent {
        /// Bytes of the input that it was.
        bytes: u64,
        /// Documents taken until now.
        documents: u64,
    },
    /// The server asked to wait, or is away.
    Waiting(String),
    /// A document was refused.
    Refused(Refused),
}

/// Loads all documents that `reader` has.
pub(crate) async fn load(
    target: &Target<'_>,
    reader: impl BufRead + Send + 'static,
    mut on_event: impl FnMut(Event),
) -> Result<Summary> {
    let (sender, mut rows) = mpsc::channel(1024);
    let numbered = target.id.is_none();
    let reading = tokio::task::spawn_blocking(move || rows::read(reader, numbered, &sender));
    let mut summary = Summary::default();
    let mut chunk = Chunk::default();
    while let Some(row) = rows.recv().await {
        chunk.push(row);
        if chunk.is_full() {
            let full = std::mem::take(&mut chunk);
            full.send(target, &mut summary, &mut on_event).await?;
        }
    }
    if !chunk.lines.is_empty() {
        chunk.send(target, &mut summary, &mut on_event).await?;
    }
    reading.await.context("read the input")??;
    Ok(summary)
}

/// Documents that are sent together.
#[derive(Default)]
struct Chunk {
    body: String,
    /// Of each document, where it stands in the input.
    lines: Vec<u64>,
    input_bytes: u64,
}

/// The reply of the bulk endpoint.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reply {
    transaction_id: Option<u64>,
    received: u64,
    written: u64,
    /// The first hundred.
    errors: Vec<LineError>,
}

#[derive(Deserialize)]
struct LineError {
    line: u64,
    code: String,
    message: String,
}

impl Chunk {
    fn push(&mut self, row: Row) {
        let Row { line, text, input_bytes } = row;
        self.body.push_str(&text);
        self.body.push('\n');
        self.lines.push(line);
        self.input_bytes += input_bytes;
    }

    fn is_full(&self) -> bool {
        self.lines.len() >= CHUNK_DOCUMENTS || self.body.len() >= CHUNK_BYTES
    }

    async fn send(
        self,
        target: &Target<'_>,
        summary: &mut Summary,
        on_event: &mut impl FnMut(Event),
    ) -> Result<()> {
        let Target { client, app, collection, id, patience } = target;
        let path = format!("/apps/{app}/api/v1/collections/{collection}/documents");
        let key = Uuid::new_v4().to_string();
        let body = bytes::Bytes::from(self.body);
        let request = || {
            let request = client
                .unlimited(Method::POST, &path)
                .header(CONTENT_TYPE, "application/x-ndjson")
                .header("Idempotency-Key", &key)
                .body(body.clone());
            match id {
                Some(field) => request.query(&[("id", field)]),
                None => request,
            }
        };
        let waiting = |why: &str| on_event(Event::Waiting(why.to_owned()));
        let response = client.send_patiently(request, *patience, waiting).await?;
        let reply: Reply = response.json().await.context("read the reply to a bulk load")?;
        for LineError { line, code, message } in reply.errors {
            let line =
                usize::try_from(line).ok().and_then(|line| self.lines.get(line.wrapping_sub(1)));
            let line = line.copied().unwrap_or_default();
            on_event(Event::Refused(Refused { line, message: format!("{message} [{code}]") }));
        }
        summary.written += reply.written;
        summary.refused += reply.received - reply.written;
        summary.transaction_id = reply.transaction_id.or(summary.transaction_id);
        on_event(Event::Sent { bytes: self.input_bytes, documents: summary.written });
        Ok(())
    }
}

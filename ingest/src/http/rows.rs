//! The reply to a SELECT: sent as the rows arrive, so that a result of any size takes little
//! memory on either side.
//!
//! A small result is sent whole. If a large one fails on the way, its status is sent already: then
//! the connection is broken off, so that nobody takes a part for the whole; before that the reply ends
//! with the error in its place, unless it is lines, which are rows and nothing else.

use std::io;
use std::time::Duration;

use anabranch_core::ids::TxnId;
use anabranch_schemas::store::QueryItem;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use futures::stream;
use tokio::time::Instant;

use super::headers;
use super::reply::{ErrorBody, set_txn};
use crate::document::Warning;
use crate::error::Refusal;
use crate::execute::{Cursor, Paged};
use crate::store::Rows;

/// A reply up to this many bytes is sent whole.
const WHOLE_BYTES: usize = 256 * 1024;

/// How long the next rows may take once the reply has begun. Few matches among many documents may
/// lie far apart; a store node that is gone is noticed by its connection.
const PAUSE: Duration = Duration::from_secs(600);

fn soon() -> Instant {
    Instant::now() + PAUSE
}

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// One object, with the rows in an array.
    Object,
    /// A row a line.
    Lines,
}

impl Form {
    /// The form that a client asks for.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        if headers::accepts(headers, LINES) { Form::Lines } else { Form::Object }
    }

    fn media_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Form::Object => "application/json",
            Form::Lines => LINES,
        })
    }
}

/// Where a reply of lines says where the next page begins.
const CURSOR_HEADER: &str = "x-anabranch-cursor";
/// The media type of rows that are lines.
const LINES: &str = "application/x-ndjson";

/// Text of a reply that grows.
struct Text {
    bytes: Vec<u8>,
    form: Form,
    is_first: bool,
    /// As JSON, for the end of an object.
    warnings: String,
}

/// What is still to be sent.
enum Rest {
    /// The text so far and the rows to come.
    Rows(Text, Box<Rows>),
    /// Only the error that broke the reply off.
    Broken(Refusal),
}

/// The reply to a SELECT or EXPLAIN.
pub(super) async fn reply(
    mut rows: Rows,
    kind: &str,
    warnings: &[Warning],
    form: Form,
    deadline: Instant,
) -> Result<Response, Refusal> {
    let mut text = Text::new(rows.txn, kind, warnings, form);
    let txn = rows.txn;
    let body = loop {
        match rows.next(deadline).await? {
            None => break Body::from(text.end(None)),
            Some(items) => text.add(texts(&items)),
        }
        if text.bytes.len() > WHOLE_BYTES {
            let rest = Rest::Rows(text, Box::new(rows));
            break Body::from_stream(stream::unfold(Some(rest), next));
        }
    };
    Ok(response(body, form, txn))
}

fn response(body: Body, form: Form, txn: Option<TxnId>) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, form.media_type());
    set_txn(response.headers_mut(), txn);
    response
}

/// The reply with a page of rows.
pub(super) fn page(page: &Paged, warnings: &[Warning], form: Form) -> Response {
    let Paged { txn, items, cursor } = page;
    let mut text = Text::new(*txn, "select", warnings, form);
    text.add(items.iter().map(String::as_str));
    let cursor = cursor.as_ref().map(Cursor::encode);
    let body = Body::from(text.end_of_page(cursor.as_deref()));
    let mut response = response(body, form, *txn);
    if let Some(cursor) = cursor {
        let cursor = HeaderValue::try_from(cursor).expect("it is of letters and digits");
        response.headers_mut().insert(CURSOR_HEADER, cursor);
    }
    response
}

async fn next(rest: Option<Rest>) -> Option<(io::Result<Bytes>, Option<Rest>)> {
    let (mut text, mut rows) = match rest? {
        Rest::Rows(text, rows) => (text, rows),
        Rest::Broken(refusal) => return Some((Err(io::Error::other(refusal)), None)),
    };
    if !text.bytes.is_empty() {
        let bytes = Bytes::from(std::mem::take(&mut text.bytes));
        return Some((Ok(bytes), Some(Rest::Rows(text, rows))));
    }
    match rows.next(soon()).await {
        Ok(Some(items)) => {
            text.add(texts(&items));
            let bytes = Bytes::from(std::mem::take(&mut text.bytes));
            Some((Ok(bytes), Some(Rest::Rows(text, rows))))
        }
        Ok(None) => Some((Ok(text.end(None)), None)),
        Err(refusal) => {
            tracing::warn!(error = %refusal, "a reply broke off after its first rows");
            Some((Ok(text.end(Some(&refusal))), Some(Rest::Broken(refusal))))
        }
    }
}

fn texts(items: &[QueryItem]) -> impl Iterator<Item = &str> {
    items.iter().map(|item| item.item.as_str())
}

impl Text {
    fn new(txn: Option<TxnId>, kind: &str, warnings: &[Warning], form: Form) -> Self {
        let (head, warnings) = match form {
            Form::Object => {
                let txn = txn.map_or_else(|| "null".to_owned(), |txn| txn.to_string());
                let head = format!(r#"{{"transactionId":{txn},"queryType":"{kind}","items":["#);
                (head, serde_json::to_string(warnings).expect("warnings are made of strings"))
            }
            Form::Lines => (String::new(), String::new()),
        };
        Text { bytes: head.into_bytes(), form, is_first: true, warnings }
    }

    /// Rows are JSON text as they come.
    fn add<'a>(&mut self, rows: impl Iterator<Item = &'a str>) {
        for row in rows {
            if self.form == Form::Object && !std::mem::take(&mut self.is_first) {
                self.bytes.push(b',');
            }
            self.bytes.extend_from_slice(row.as_bytes());
            if self.form == Form::Lines {
                self.bytes.push(b'\n');
            }
        }
    }

    fn end_of_page(self, cursor: Option<&str>) -> Bytes {
        let cursor = serde_json::to_string(&cursor).expect("a string always encodes");
        self.close(&format!(r#""cursor":{cursor},"#), None)
    }

    fn end(self, refusal: Option<&Refusal>) -> Bytes {
        self.close("", refusal)
    }

    fn close(mut self, more: &str, refusal: Option<&Refusal>) -> Bytes {
        if self.form == Form::Object {
            let error = serde_json::to_vec(&refusal.map(ErrorBody::from))
                .expect("an error is made of strings");
            self.bytes.extend_from_slice(br#"],"mutatedDocumentIds":[],"warnings":"#);
            self.bytes.extend_from_slice(self.warnings.as_bytes());
            self.bytes.push(b',');
            self.bytes.extend_from_slice(more.as_bytes());
            self.bytes.extend_from_slice(br#""error":"#);
            self.bytes.extend_from_slice(&error);
            self.bytes.push(b'}');
        }
        Bytes::from(self.bytes)
    }
}

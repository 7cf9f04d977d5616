//! The reply to a SELECT: sent as the rows arrive, so that a result of any size takes little
//! memory on either side.
//!
//! A small result is sent whole. If a large one fails on the way, its status is sent already: then
//! the reply ends with the error in its place and the connection is broken off, so that nobody
//! takes a part for the whole.

use std::io;
use std::time::Duration;

use anabranch_schemas::store::QueryItem;
use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use futures::stream;
use tokio::time::Instant;

use super::reply::{ErrorBody, set_txn};
use crate::error::Refusal;
use crate::store::Rows;

/// A reply up to this many bytes is sent whole.
const WHOLE_BYTES: usize = 256 * 1024;

/// How long the next rows may take once the reply has begun. Few matches among many documents may
/// lie far apart; a store node that is gone is noticed by its connection.
const PAUSE: Duration = Duration::from_secs(600);

fn soon() -> Instant {
    Instant::now() + PAUSE
}

/// Text of a reply that grows.
struct Text {
    bytes: Vec<u8>,
    is_first: bool,
}

/// What is still to be sent.
enum Rest {
    /// The text so far and the rows to come.
    Rows(Text, Box<Rows>),
    /// Only the error that broke the reply off.
    Broken(Refusal),
}

/// The reply to a SELECT.
pub(super) async fn reply(mut rows: Rows, deadline: Instant) -> Result<Response, Refusal> {
    let mut text = Text::new(&rows);
    let txn = rows.txn;
    let body = loop {
        match rows.next(deadline).await? {
            None => break Body::from(text.end(None)),
            Some(items) => text.add(&items),
        }
        if text.bytes.len() > WHOLE_BYTES {
            let rest = Rest::Rows(text, Box::new(rows));
            break Body::from_stream(stream::unfold(Some(rest), next));
        }
    };
    let mut response = Response::new(body);
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    set_txn(response.headers_mut(), txn);
    Ok(response)
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
            text.add(&items);
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

impl Text {
    fn new(rows: &Rows) -> Self {
        let txn = rows.txn.map_or_else(|| "null".to_owned(), |txn| txn.to_string());
        let head = format!(r#"{{"transactionId":{txn},"queryType":"select","items":["#);
        Text { bytes: head.into_bytes(), is_first: true }
    }

    /// The items are JSON text as they come.
    fn add(&mut self, items: &[QueryItem]) {
        for item in items {
            if !std::mem::take(&mut self.is_first) {
                self.bytes.push(b',');
            }
            self.bytes.extend_from_slice(item.item.as_bytes());
        }
    }

    fn end(mut self, refusal: Option<&Refusal>) -> Bytes {
        let error =
            serde_json::to_vec(&refusal.map(ErrorBody::from)).expect("an error is made of strings");
        self.bytes.extend_from_slice(br#"],"mutatedDocumentIds":[],"warnings":[],"error":"#);
        self.bytes.extend_from_slice(&error);
        self.bytes.push(b'}');
        Bytes::from(self.bytes)
    }
}

//! Events as they are sent: server-sent events, each with the transaction it is of as its id and JSON as its
//! data, a row a line.
//!
//! ```text
//! event: result                                  all rows: first, and whenever that is simpler
//! event: change                                  what a transaction changed in them
//! event: end                                     why no more will come
//! id alone                                       nothing changed up to here
//! ```

use std::fmt::Write;
use std::sync::Arc;

use anabranch_core::ids::TxnId;
use bytes::{BufMut, Bytes, BytesMut};

use super::row_set::{Item, RowChange, RowSet};
use crate::error::Refusal;
use crate::http::ErrorBody;

/// About how many bytes are sent at once.
const PIECE_BYTES: usize = 64 * 1024;

/// All rows as of everything below a transaction.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) next: TxnId,
    items: Vec<Item>,
}

/// A snapshot that is being sent.
#[derive(Debug)]
pub(super) struct Sending {
    snapshot: Arc<Snapshot>,
    sent: usize,
    state: Part,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Head,
    Rows,
    Sent,
}

impl Snapshot {
    pub(super) fn new(next: TxnId, rows: &RowSet) -> Self {
        Snapshot { next, items: rows.items().cloned().collect() }
    }
}

impl Sending {
    pub(super) fn new(snapshot: Arc<Snapshot>) -> Self {
        Sending { snapshot, sent: 0, state: Part::Head }
    }

    /// The next piece of its text; `None` if all was given.
    pub(super) fn piece(&mut self) -> Option<Bytes> {
        let mut text = BytesMut::new();
        if self.state == Part::Head {
            text.put_slice(head("result", self.snapshot.next, "items").as_bytes());
            self.state = Part::Rows;
        }
        let items = &self.snapshot.items;
        while self.state == Part::Rows && text.len() < PIECE_BYTES {
            let Some(item) = items.get(self.sent) else {
                text.put_slice(TAIL.as_bytes());
                self.state = Part::Sent;
                break;
            };
            self.sent += 1;
            text.put_slice(b"data: ");
            text.put_slice(item.as_bytes());
            text.put_slice(if self.sent < items.len() { b",\n" } else { b"\n" });
        }
        (!text.is_empty()).then(|| text.freeze())
    }
}

/// All rows as one text.
pub(super) fn result(next: TxnId, rows: &RowSet) -> Bytes {
    let mut sending = Sending::new(Arc::new(Snapshot::new(next, rows)));
    let mut text = BytesMut::new();
    while let Some(piece) = sending.piece() {
        text.put_slice(&piece);
    }
    text.freeze()
}

/// What changed in the rows. Where each stands is told if that is not by its id.
pub(super) fn change(next: TxnId, changes: &[RowChange], is_sorted: bool) -> Bytes {
    let mut text = head("change", next, "changes");
    for (number, change) in changes.iter().enumerate() {
        text.push_str("data: ");
        match change {
            RowChange::Removed(id) => write!(text, r#"{{"type":"remove","_id":{id}}}"#),
            RowChange::Set { id, item, after } => {
                let after = match (is_sorted, after) {
                    (false, _) => String::new(),
                    (true, None) => r#","after":null"#.to_owned(),
                    (true, Some(after)) => format!(r#","after":{after}"#),
                };
                write!(text, r#"{{"type":"set","_id":{id}{after},"item":{item}}}"#)
            }
        }
        .expect("a string grows");
        text.push_str(if number + 1 < changes.len() { ",\n" } else { "\n" });
    }
    text.push_str(TAIL);
    text.into()
}

/// That nothing changed in the rows up to a transaction: whoever comes back says this one.
pub(super) fn progress(next: TxnId) -> Bytes {
    match last(next) {
        Some(txn) => format!("id: {txn}\n\n").into(),
        None => alive(),
    }
}

/// Nothing: only that the connection lives.
pub(super) fn alive() -> Bytes {
    Bytes::from_static(b":\n\n")
}

/// Why no more will come.
pub(crate) fn ended(refusal: &Refusal) -> Bytes {
    let error = serde_json::to_string(&ErrorBody::from(refusal)).expect("it is made of strings");
    format!("event: end\ndata: {{\"error\":{error}}}\n\n").into()
}

/// Closes the list that a head opened.
const TAIL: &str = "data: ]}\n\n";

fn head(event: &str, next: TxnId, list: &str) -> String {
    let mut text = format!("event: {event}\n");
    let txn = match last(next) {
        Some(txn) => {
            writeln!(text, "id: {txn}").expect("a string grows");
            txn.to_string()
        }
        None => "null".to_owned(),
    };
    writeln!(text, r#"data: {{"transactionId":{txn},"{list}":["#).expect("a string grows");
    text
}

/// The last transaction below this; `None` before the first of a cluster.
fn last(next: TxnId) -> Option<u64> {
    next.0.checked_sub(1)
}

//! Events as they are sent: server-sent events with JSON as their data, a row a line.
//!
//! ```text
//! event: result     all rows: first, and whenever that is simpler
//! event: change     what changed in them: all that a transaction did, or several
//! event: end        why no more will come
//! id alone          nothing changed up to here
//! ```
//!
//! The id of an event is its transaction and a tag of that and of what is asked for: the rows that
//! somebody has may be those of another question, also if only what he may read has changed.

use std::fmt::{self, Write};
use std::str::FromStr;
use std::sync::Arc;

use anabranch_core::ids::TxnId;
use bytes::{BufMut, Bytes, BytesMut};
use uuid::Uuid;

use super::row_set::{Item, RowChange, RowSet};
use crate::error::Refusal;
use crate::http::{ErrorBody, PIECE_BYTES, whole};
use crate::seal::Seal;

/// About how long a client waits before it comes again, in milliseconds: not all at once.
const COME_AGAIN_MS: std::ops::Range<u128> = 500..2_500;

/// Tells what is asked for, and which transaction of it: the same for the same on every server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tag(u64);

/// The tags of what is asked for.
#[derive(Clone, Debug)]
pub(super) struct Tags(Seal);

/// How far somebody is who comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// He has everything up to this transaction.
    pub(super) txn: TxnId,
    /// Of what; of the same as is asked for now, if that is not said.
    pub(super) tag: Option<Tag>,
}

impl Seen {
    /// Everything below `next`; `None` before the first transaction of a cluster.
    fn below(next: TxnId, tags: &Tags) -> Option<Self> {
        let txn = TxnId(next.0.checked_sub(1)?);
        Some(Seen { txn, tag: Some(tags.at(txn)) })
    }
}

impl Tags {
    /// Those of what has this seal.
    pub(super) fn new(seal: Seal) -> Self {
        Tags(seal)
    }

    /// That of a transaction.
    pub(super) fn at(&self, txn: TxnId) -> Tag {
        let digest = self.0.digest(&txn.0.to_be_bytes());
        let first = digest.first_chunk().expect("a digest has more bytes");
        Tag(u64::from_be_bytes(*first))
    }

    /// Whether it is what is asked for here that somebody has, as far as he says of what that is.
    pub(super) fn are_of(&self, seen: &Seen) -> bool {
        seen.tag.is_none_or(|tag| tag == self.at(seen.txn))
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A text that is not the id of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is not the id of an event")]
pub(crate) struct NoEvent;

impl fmt::Display for Seen {
    /// Writes the id of an event.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.txn)?;
        self.tag.map_or(Ok(()), |tag| write!(f, "-{tag}"))
    }
}

impl FromStr for Seen {
    type Err = NoEvent;

    /// Reads the id of an event, or a transaction, written as we write them.
    fn from_str(text: &str) -> Result<Self, NoEvent> {
        let (txn, tag) = match text.split_once('-') {
            Some((txn, tag)) => (txn, Some(tag.parse()?)),
            None => (text, None),
        };
        Ok(Seen { txn: TxnId(whole(txn).ok_or(NoEvent)?), tag })
    }
}

impl FromStr for Tag {
    type Err = NoEvent;

    fn from_str(text: &str) -> Result<Self, NoEvent> {
        let is_digit = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        // Those of older servers have half as many digits: they are of nothing that is given here.
        if ![8, 16].contains(&text.len()) || !text.bytes().all(is_digit) {
            return Err(NoEvent);
        }
        u64::from_str_radix(text, 16).map(Tag).map_err(|_| NoEvent)
    }
}

/// All rows.
#[derive(Debug)]
pub(super) struct Snapshot {
    items: Vec<Item>,
}

/// A snapshot that is being sent.
#[derive(Debug)]
pub(super) struct Sending {
    snapshot: Arc<Snapshot>,
    /// What stands before the rows.
    head: String,
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
    pub(super) fn new(rows: &RowSet) -> Self {
        Snapshot { items: rows.items().cloned().collect() }
    }
}

impl Sending {
    /// Of rows as of everything below `next`.
    pub(super) fn new(snapshot: Arc<Snapshot>, next: TxnId, tags: &Tags) -> Self {
        let head = head("result", next, tags, "items");
        Sending { snapshot, head, sent: 0, state: Part::Head }
    }

    /// The next piece of its text; `None` if all was given.
    pub(super) fn piece(&mut self) -> Option<Bytes> {
        let mut text = BytesMut::new();
        if self.state == Part::Head {
            text.put_slice(self.head.as_bytes());
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
pub(super) fn result(next: TxnId, tags: &Tags, rows: &RowSet) -> Bytes {
    let mut sending = Sending::new(Arc::new(Snapshot::new(rows)), next, tags);
    let mut text = BytesMut::new();
    while let Some(piece) = sending.piece() {
        text.put_slice(&piece);
    }
    text.freeze()
}

/// What changed in the rows. Where each stands is told if that is not by its id.
pub(super) fn change(next: TxnId, tags: &Tags, changes: &[RowChange], is_sorted: bool) -> Bytes {
    let mut text = head("change", next, tags, "changes");
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
pub(super) fn progress(next: TxnId, tags: &Tags) -> Bytes {
    match Seen::below(next, tags) {
        Some(seen) => format!("id: {seen}\n\n").into(),
        None => alive(),
    }
}

/// When to come again once the connection is lost: what stands before all events.
pub(super) fn greeting() -> Bytes {
    let drawn = Uuid::new_v4().as_u128() % (COME_AGAIN_MS.end - COME_AGAIN_MS.start);
    format!("retry: {}\n\n", COME_AGAIN_MS.start + drawn).into()
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

fn head(event: &str, next: TxnId, tags: &Tags, list: &str) -> String {
    let mut text = format!("event: {event}\n");
    let txn = match Seen::below(next, tags) {
        Some(seen) => {
            writeln!(text, "id: {seen}").expect("a string grows");
            seen.txn.to_string()
        }
        None => "null".to_owned(),
    };
    writeln!(text, r#"data: {{"transactionId":{txn},"{list}":["#).expect("a string grows");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doubles::EAST;

    #[test]
    fn a_tag_is_of_one_transaction_of_one_thing() {
        let [here, elsewhere] =
            [b"here", b"else"].map(|piece| Tags::new(Seal::new(EAST, &[piece])));
        let seen = Seen::below(TxnId(8), &here).unwrap();
        assert!(here.are_of(&seen) && !elsewhere.are_of(&seen));
        for txn in [0, 6, 8].map(TxnId) {
            assert!(!here.are_of(&Seen { txn, ..seen }), "{txn}");
        }
        assert!(elsewhere.are_of(&Seen { tag: None, ..seen }));
    }

    #[test]
    fn an_id_is_read_as_it_is_written_and_not_otherwise() {
        let (txn, tag) = (TxnId(1042), Tag(0x0f86_d081_884c_7d65));
        for (text, seen) in [
            ("1042-0f86d081884c7d65", Seen { txn, tag: Some(tag) }),
            ("1042", Seen { txn, tag: None }),
        ] {
            assert_eq!((text.parse(), seen.to_string().as_str()), (Ok(seen), text));
        }
        for text in [
            "",
            "-",
            "+5",
            "-5",
            " 5",
            "5-",
            "5-F",
            "5-f",
            "5-+1",
            "5-0f86d0818",
            "5-+0f86d081884c7d6",
            "5-0F86D081884C7D65",
            "5-00f86d081884c7d65",
            "5-0f86d081884c7d65-",
            "-0f86d081884c7d65",
            "18446744073709551616",
        ] {
            assert_eq!(text.parse::<Seen>(), Err(NoEvent), "{text}");
        }
    }
}

//! Takes an input apart into documents, without holding all of it: a JSON array, or JSON one a
//! line. Text that is not JSON is passed on as it is: the server says what is wrong with it, and
//! the rows around it are loaded.

use std::fmt;
use std::io::BufRead;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;
use tokio::sync::mpsc::Sender;

/// A document as it is sent, on one line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// From 1: the line of the input, or the item of its array.
    pub(super) line: u64,
    pub(super) text: String,
    /// How much of the input it took.
    pub(super) input_bytes: u64,
}

/// Whoever receives the rows has gone; it knows why.
struct Gone;

/// Reads documents until the end of the input or until nobody takes them any more. With `numbered`,
/// those without `_id` get one.
pub(super) fn read(mut reader: impl BufRead, numbered: bool, to: &Sender<Row>) -> Result<()> {
    let mut feed = Feed { numbered, documents: 0, to };
    match first_byte(&mut reader).context("read the input")? {
        None => Ok(()),
        Some(b'[') => {
            let mut json = serde_json::Deserializer::from_reader(reader);
            let gone = json.deserialize_seq(Items(&mut feed)).context("the input is not JSON")?;
            match gone {
                Some(Gone) => Ok(()),
                None => json.end().context("the input goes on after its array"),
            }
        }
        Some(_) => read_lines(reader, &mut feed),
    }
}

/// The first byte that is not white space, which stays to be read.
fn first_byte(reader: &mut impl BufRead) -> std::io::Result<Option<u8>> {
    loop {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            return Ok(None);
        }
        match buffer.iter().position(|byte| !byte.is_ascii_whitespace()) {
            Some(at) if buffer[at] == b'[' => return Ok(Some(b'[')),
            Some(at) => return Ok(Some(buffer[at])),
            // Only an array may lose the lines before it, and it has no line numbers.
            None => {
                let length = buffer.len();
                reader.consume(length);
            }
        }
    }
}

fn read_lines(mut reader: impl BufRead, feed: &mut Feed<'_>) -> Result<()> {
    let mut buffer = Vec::new();
    for line in 1.. {
        buffer.clear();
        let read = reader.read_until(b'\n', &mut buffer).context("read the input")?;
        if read == 0 {
            break;
        }
        // What is not UTF-8 is not JSON either; the replacement lets the server refuse this line.
        let text = String::from_utf8_lossy(&buffer);
        let text = text.trim();
        if !text.is_empty() && feed.send(line, text.to_owned(), read as u64).is_err() {
            break;
        }
    }
    Ok(())
}

struct Feed<'a> {
    numbered: bool,
    documents: u64,
    to: &'a Sender<Row>,
}

impl Feed<'_> {
    fn send(&mut self, line: u64, text: String, input_bytes: u64) -> Result<(), Gone> {
        self.documents += 1;
        let text = if self.numbered { with_id(text, self.documents) } else { text };
        self.to.blocking_send(Row { line, text, input_bytes }).map_err(|_| Gone)
    }
}

/// Whether a document has an `_id`, be it `null`.
#[derive(Deserialize)]
struct Id {
    #[serde(rename = "_id", default, deserialize_with = "there")]
    there: bool,
}

fn there<'de, D: Deserializer<'de>>(id: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(id).map(|_| true)
}

/// The document with an id of its number, unless it has one. Its text is not read and written anew:
/// numbers stay as they were written. An `_id` of `null` stays too, for the server to refuse: who
/// wrote it meant some id.
fn with_id(text: String, number: u64) -> String {
    let lacks_id = serde_json::from_str::<Id>(&text).is_ok_and(|document| !document.there);
    let Some(fields) = text.trim_start().strip_prefix('{').filter(|_| lacks_id) else {
        return text;
    };
    let comma = if fields.trim_start().starts_with('}') { "" } else { "," };
    format!(r#"{{"_id":"row-{number:06}"{comma}{fields}"#)
}

/// Sends the items of an array on as they are read.
struct Items<'a, 'b>(&'a mut Feed<'b>);

impl<'de> Visitor<'de> for Items<'_, '_> {
    type Value = Option<Gone>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of documents")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Option<Gone>, A::Error> {
        let mut number = 0;
        while let Some(item) = items.next_element::<Box<RawValue>>()? {
            number += 1;
            // Between tokens a line break is white space like any other, and within text JSON has
            // none.
            let text = item.get().replace(['\n', '\r'], " ");
            if self.0.send(number, text, item.get().len() as u64).is_err() {
                return Ok(Some(Gone));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(input: &str, numbered: bool) -> Result<Vec<(u64, String)>> {
        let (sender, mut receiver) = tokio::sync::mpsc::channel(100);
        read(input.as_bytes(), numbered, &sender)?;
        drop(sender);
        let rows = std::iter::from_fn(|| receiver.blocking_recv());
        Ok(rows.map(|row| (row.line, row.text)).collect())
    }

    #[test]
    fn items_of_an_array_are_numbered_unless_they_have_an_id() {
        let found =
            rows("\n [{\"a\":\n 1.50}, {\"_id\": 7}, {}, {\"_id\": null} ]\n", true).unwrap();
        let expected = [
            (1, "{\"_id\":\"row-000001\",\"a\":  1.50}"),
            (2, "{\"_id\": 7}"),
            (3, "{\"_id\":\"row-000003\"}"),
            (4, "{\"_id\": null}"),
        ];
        assert_eq!(found, expected.map(|(line, text)| (line, text.to_owned())));
    }

    #[test]
    fn lines_keep_their_place_and_broken_ones_are_passed_on() {
        let found = rows("{\"a\":1}\n\n{broken\n{\"b\":[\"_id\"]}", true).unwrap();
        let expected = [
            (1, "{\"_id\":\"row-000001\",\"a\":1}"),
            (3, "{broken"),
            (4, "{\"_id\":\"row-000003\",\"b\":[\"_id\"]}"),
        ];
        assert_eq!(found, expected.map(|(line, text)| (line, text.to_owned())));
        assert_eq!(rows("{\"a\":1}", false).unwrap(), [(1, "{\"a\":1}".to_owned())]);
    }

    #[test]
    fn an_array_that_does_not_end_is_an_error() {
        assert!(rows("[{\"a\":1},", true).is_err());
        assert!(rows("[{\"a\":1}] 5", true).is_err());
        assert!(rows("  \n", true).unwrap().is_empty());
    }
}

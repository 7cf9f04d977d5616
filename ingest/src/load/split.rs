//! Cuts a stream of bytes into JSON texts: one a line, or the elements of one array.
//!
//! Only the element that is being read is held, up to a limit: a load of any size takes the same
//! memory. Where an element ends is found by its brackets and quotes; whether it is valid JSON is
//! for whoever parses it to say. Its text is copied, without the space around it: a slice would
//! keep all of the chunk that it was cut from.

use bytes::{Bytes, BytesMut};
use memchr::{memchr, memchr2};

use crate::error::{Code, Refusal};

/// How the documents of a load are written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// One a line.
    Lines,
    /// In one array.
    Array,
    /// Whichever it looks like.
    Either,
}

/// A document's JSON text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Element {
    /// The line, or the place in the array, from 1.
    pub(super) number: u64,
    /// `None` if it is longer than the limit.
    pub(super) text: Option<Bytes>,
}

/// Cuts a stream.
pub(super) struct Splitter {
    state: State,
    format: Format,
    most: usize,
    /// The start of the current element, if it came with earlier chunks.
    partial: BytesMut,
    /// The current element is above the limit: its text is not kept.
    is_over: bool,
    number: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing but space was there yet.
    Start,
    /// In a line.
    Line,
    /// After `[`.
    Open,
    /// In an element, so deep in brackets.
    Element { depth: u64 },
    /// In a string of an element; after a backslash?
    Text { depth: u64, is_escaped: bool },
    /// After a comma.
    Comma,
    /// After `]`.
    Closed,
}

impl Splitter {
    /// `most` is how long an element may be, in bytes.
    pub(super) fn new(format: Format, most: usize) -> Self {
        let partial = BytesMut::new();
        Splitter { state: State::Start, format, most, partial, is_over: false, number: 0 }
    }

    /// Takes the next chunk and adds the elements that end in it to `elements`.
    pub(super) fn push(
        &mut self,
        mut chunk: Bytes,
        elements: &mut Vec<Element>,
    ) -> Result<(), Refusal> {
        while !chunk.is_empty() {
            match self.state {
                State::Start => self.start(&mut chunk)?,
                State::Line => self.line(&mut chunk, elements),
                State::Element { .. } | State::Text { .. } => self.element(&mut chunk, elements),
                State::Open | State::Comma | State::Closed => self.between(&mut chunk)?,
            }
        }
        Ok(())
    }

    /// The stream has ended.
    pub(super) fn finish(mut self, elements: &mut Vec<Element>) -> Result<(), Refusal> {
        match self.state {
            State::Line => {
                self.emit(Bytes::new(), elements);
                Ok(())
            }
            State::Closed => Ok(()),
            State::Start if self.format != Format::Array => Ok(()),
            _ => Err(broken("the array does not end", self.number)),
        }
    }

    fn start(&mut self, chunk: &mut Bytes) -> Result<(), Refusal> {
        // A byte order mark counts as space.
        let is_space = |byte: u8| byte.is_ascii_whitespace() || [0xef, 0xbb, 0xbf].contains(&byte);
        let Some(at) = chunk.iter().position(|byte| !is_space(*byte)) else {
            self.skip_lines(chunk);
            chunk.clear();
            return Ok(());
        };
        let space = chunk.split_to(at);
        if chunk[0] == b'[' && self.format != Format::Lines {
            let _ = chunk.split_to(1);
            self.number = 0;
            self.state = State::Open;
        } else if self.format == Format::Array {
            return Err(Refusal::new(
                Code::InvalidJson,
                format!("an array of documents begins with '[', not with {}", show(chunk[0])),
            )
            .with_hint("for one document a line send application/x-ndjson"));
        } else {
            self.skip_lines(&space);
            self.state = State::Line;
        }
        Ok(())
    }

    fn skip_lines(&mut self, space: &[u8]) {
        self.number += space.iter().filter(|byte| **byte == b'\n').count() as u64;
    }

    fn line(&mut self, chunk: &mut Bytes, elements: &mut Vec<Element>) {
        match memchr(b'\n', chunk) {
            Some(end) => {
                let text = chunk.split_to(end);
                let _ = chunk.split_to(1);
                self.emit(text, elements);
            }
            None => self.keep(chunk),
        }
    }

    /// What stands between the elements of an array.
    fn between(&mut self, chunk: &mut Bytes) -> Result<(), Refusal> {
        let Some(at) = chunk.iter().position(|byte| !byte.is_ascii_whitespace()) else {
            chunk.clear();
            return Ok(());
        };
        let _ = chunk.split_to(at);
        match (self.state, chunk[0]) {
            (State::Closed, other) => {
                let what = format!("the array is followed by {}", show(other));
                return Err(broken(&what, self.number));
            }
            (State::Open, b']') => {
                let _ = chunk.split_to(1);
                self.state = State::Closed;
            }
            (_, b',' | b']') => {
                let what = format!("{} stands where an element should", show(chunk[0]));
                return Err(broken(&what, self.number));
            }
            _ => self.state = State::Element { depth: 0 },
        }
        Ok(())
    }

    /// An element of an array, up to the comma or bracket after it.
    fn element(&mut self, chunk: &mut Bytes, elements: &mut Vec<Element>) {
        let mut at = 0;
        while at < chunk.len() {
            match self.state {
                State::Text { depth, is_escaped: true } => {
                    self.state = State::Text { depth, is_escaped: false };
                }
                State::Text { depth, .. } => match memchr2(b'"', b'\\', &chunk[at..]) {
                    None => at = chunk.len() - 1,
                    Some(skipped) => {
                        at += skipped;
                        self.state = match chunk[at] {
                            b'"' => State::Element { depth },
                            _ => State::Text { depth, is_escaped: true },
                        };
                    }
                },
                State::Element { depth } => match chunk[at] {
                    b'"' => self.state = State::Text { depth, is_escaped: false },
                    b'{' | b'[' => self.state = State::Element { depth: depth + 1 },
                    end @ (b',' | b']') if depth == 0 => {
                        let text = chunk.split_to(at);
                        let _ = chunk.split_to(1);
                        self.state = if end == b',' { State::Comma } else { State::Closed };
                        self.emit(text, elements);
                        return;
                    }
                    b'}' | b']' => {
                        self.state = State::Element { depth: depth.saturating_sub(1) };
                    }
                    _ => {}
                },
                _ => return,
            }
            at += 1;
        }
        self.keep(chunk);
    }

    /// Keeps the rest of a chunk: the element that it is part of goes on.
    fn keep(&mut self, chunk: &mut Bytes) {
        let piece = std::mem::take(chunk);
        if self.is_over || self.partial.len() + piece.len() > self.most {
            self.is_over = true;
            self.partial = BytesMut::new();
        } else {
            self.partial.extend_from_slice(&piece);
        }
    }

    /// An element ends with `piece`.
    fn emit(&mut self, mut piece: Bytes, elements: &mut Vec<Element>) {
        self.number += 1;
        let copy = |text: &[u8]| Some(Bytes::copy_from_slice(text.trim_ascii()));
        let text = if self.is_over || self.partial.len() + piece.len() > self.most {
            None
        } else if self.partial.is_empty() {
            copy(&piece)
        } else {
            self.keep(&mut piece);
            copy(&self.partial)
        };
        self.is_over = false;
        self.partial = BytesMut::new();
        if text.as_ref().is_none_or(|text| !text.is_empty()) {
            elements.push(Element { number: self.number, text });
        }
    }
}

fn show(byte: u8) -> String {
    format!("'{}'", char::from(byte).escape_default())
}

fn broken(what: &str, number: u64) -> Refusal {
    Refusal::new(Code::InvalidJson, format!("{what} (after element {number})"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(format: Format, most: usize, chunks: &[&[u8]]) -> Result<Vec<Element>, Refusal> {
        let mut splitter = Splitter::new(format, most);
        let mut elements = Vec::new();
        for chunk in chunks {
            splitter.push(Bytes::copy_from_slice(chunk), &mut elements)?;
        }
        splitter.finish(&mut elements)?;
        Ok(elements)
    }

    fn texts(format: Format, text: &str) -> Vec<(u64, String)> {
        let elements = split(format, 100, &[text.as_bytes()]).unwrap();
        let text = |element: Element| {
            let text = element.text.expect("it is below the limit");
            (element.number, String::from_utf8(text.to_vec()).unwrap())
        };
        elements.into_iter().map(text).collect()
    }

    fn expected(elements: &[(u64, &str)]) -> Vec<(u64, String)> {
        elements.iter().map(|(number, text)| (*number, (*text).to_owned())).collect()
    }

    #[test]
    fn lines_are_counted_and_empty_ones_left_out() {
        let all = expected(&[(2, "{\"a\":1}"), (4, "[2"), (5, "3")]);
        assert_eq!(texts(Format::Lines, "\n{\"a\":1}\r\n  \n[2\n3"), all);
        assert_eq!(texts(Format::Either, "\u{feff}{}\n"), expected(&[(1, "{}")]));
        assert_eq!(texts(Format::Lines, " \n\n"), []);
    }

    #[test]
    fn elements_of_an_array_are_found() {
        let text = r#" [ {"a":"],\"}{"} , [1,[2]],3 , "x" ] "#;
        let all = expected(&[(1, r#"{"a":"],\"}{"}"#), (2, "[1,[2]]"), (3, "3"), (4, "\"x\"")]);
        assert_eq!(texts(Format::Array, text), all);
        assert_eq!(texts(Format::Either, text), all);
        assert_eq!(texts(Format::Array, "[ ]"), []);
    }

    #[test]
    fn broken_arrays_are_refused() {
        for text in ["", " ", "{}", "[", "[1", "[1,", "[,1]", "[1,]", "[1]]", "[1] 2", "[\"a]"] {
            let refusal = split(Format::Array, 100, &[text.as_bytes()]).unwrap_err();
            assert_eq!(refusal.code(), Code::InvalidJson, "{text}");
        }
    }

    #[test]
    fn what_is_too_long_is_left_out_and_not_held() {
        let long = format!("[1,\"{}\",2]", "x".repeat(200));
        let elements = split(Format::Array, 100, &[long.as_bytes()]).unwrap();
        let sizes: Vec<_> = elements.iter().map(|e| e.text.as_ref().map(Bytes::len)).collect();
        assert_eq!(sizes, [Some(1), None, Some(1)]);
        let mut splitter = Splitter::new(Format::Lines, 100);
        for _ in 0..1_000 {
            splitter.push(Bytes::from_static(&[b'x'; 64]), &mut Vec::new()).unwrap();
            assert!(splitter.partial.len() <= 100);
        }
    }

    #[test]
    fn a_small_document_keeps_no_large_buffer() {
        let space = " ".repeat(1_000);
        for (format, text) in [
            (Format::Lines, format!("{space}{{}}{space}\n{{}}")),
            (Format::Array, format!("[{space}{{}}{space},{{}}]")),
        ] {
            for cut in [text.len(), 500] {
                let (first, second) = text.split_at(cut);
                let chunks = [first, second].map(|chunk| Bytes::from(chunk.to_owned()));
                let mut splitter = Splitter::new(format, 10_000);
                let mut elements = Vec::new();
                for chunk in &chunks {
                    splitter.push(chunk.clone(), &mut elements).unwrap();
                }
                splitter.finish(&mut elements).unwrap();
                assert_eq!(elements.len(), 2);
                for text in elements.into_iter().map(|element| element.text.unwrap()) {
                    assert_eq!(text, "{}");
                    let place = text.as_ptr();
                    assert!(chunks.iter().all(|chunk| !chunk.as_ptr_range().contains(&place)));
                    assert_eq!(BytesMut::from(text).capacity(), 2, "only the text is held");
                }
            }
        }
    }

    proptest! {
        /// Where the chunks are cut makes no difference.
        #[test]
        fn chunks_do_not_matter(
            values in prop::collection::vec("\\PC{0,12}", 0..8),
            cuts in prop::collection::vec(0_usize..200, 0..12),
            is_array in any::<bool>(),
        ) {
            let values: Vec<_> =
                values.iter().map(|text| serde_json::json!({"k": [text]}).to_string()).collect();
            let (format, text) = if is_array {
                (Format::Array, format!("[{}]", values.join(" ,")))
            } else {
                (Format::Lines, values.join("\n"))
            };
            let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let chunks: Vec<_> =
                cuts.windows(2).map(|pair| &text.as_bytes()[pair[0]..pair[1]]).collect();
            let found = split(format, 1_000, &chunks).unwrap();
            let found: Vec<_> = found.into_iter().map(|element| element.text.unwrap()).collect();
            prop_assert_eq!(found, values);
        }
    }
}

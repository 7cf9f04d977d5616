//! LIKE patterns: `%` is any text, `_` any one character, `\` takes the next character as it is.

use super::error::{QueryError, QueryErrorCode};

/// The longest pattern, in bytes: it bounds the work per character of a document's text.
pub(super) const MAX_PATTERN_BYTES: usize = 256;

/// A pattern, compiled.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Pattern {
    text: String,
    /// What stands between the `%`s, in order; there is one `%` less than there are parts.
    parts: Vec<Vec<Step>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    Any,
    Exactly(char),
}

impl Step {
    fn accepts(self, found: char) -> bool {
        match self {
            Step::Any => true,
            Step::Exactly(expected) => expected == found,
        }
    }
}

impl Pattern {
    pub(super) fn new(text: &str) -> Result<Self, QueryError> {
        if text.len() > MAX_PATTERN_BYTES {
            return Err(QueryError::new(
                QueryErrorCode::TooLong,
                format!(
                    "a LIKE pattern is {} bytes long; the limit is {MAX_PATTERN_BYTES}",
                    text.len()
                ),
            ));
        }
        let mut parts = Vec::new();
        let mut part = Vec::new();
        let mut chars = text.chars();
        while let Some(next) = chars.next() {
            match next {
                '%' => parts.push(std::mem::take(&mut part)),
                '_' => part.push(Step::Any),
                '\\' => part.push(Step::Exactly(chars.next().unwrap_or('\\'))),
                other => part.push(Step::Exactly(other)),
            }
        }
        parts.push(part);
        Ok(Pattern { text: text.to_owned(), parts })
    }

    /// The pattern as it was written.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Whether the whole text matches. The parts between the first and the last are searched from
    /// left to right; taking the leftmost place for each leaves the most room for the others.
    pub(super) fn matches(&self, text: &str) -> bool {
        let Some((first, others)) = self.parts.split_first() else { return false };
        let Some(mut rest) = strip(text, first) else { return false };
        let Some((last, middle)) = others.split_last() else { return rest.is_empty() };
        for part in middle {
            let mut starts = rest.char_indices().map(|(start, _)| start).chain([rest.len()]);
            let Some(after) = starts.find_map(|start| strip(&rest[start..], part)) else {
                return false;
            };
            rest = after;
        }
        let mut end = rest.chars();
        last.iter().rev().all(|step| end.next_back().is_some_and(|found| step.accepts(found)))
    }
}

/// What follows `part` at the start of `text`.
fn strip<'a>(text: &'a str, part: &[Step]) -> Option<&'a str> {
    let mut chars = text.chars();
    let fits = part.iter().all(|step| chars.next().is_some_and(|found| step.accepts(found)));
    fits.then_some(chars.as_str())
}

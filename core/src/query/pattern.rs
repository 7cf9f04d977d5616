//! LIKE patterns: `%` is any text, `_` any one character, `\` takes the next character as it is.

use memchr::memmem::Finder;

use super::error::{QueryError, QueryErrorCode};

/// The longest pattern, in bytes: it bounds the work per character of a document's text, which
/// parts with a `_` need.
pub(super) const MAX_PATTERN_BYTES: usize = 256;

/// A pattern, compiled.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    text: String,
    /// What stands between the `%`s, in order; there is one `%` less than there are parts.
    parts: Vec<Part>,
}

/// What is compiled follows from the text.
impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

#[derive(Clone, Debug)]
struct Part {
    steps: Vec<Step>,
    /// If it is plain text: that is found in linear time.
    finder: Option<Finder<'static>>,
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
                '%' => parts.push(Part::new(std::mem::take(&mut part))),
                '_' => part.push(Step::Any),
                '\\' => part.push(Step::Exactly(chars.next().unwrap_or('\\'))),
                other => part.push(Step::Exactly(other)),
            }
        }
        parts.push(Part::new(part));
        Ok(Pattern { text: text.to_owned(), parts })
    }

    /// The pattern as it was written.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// What every text begins with that matches.
    pub(super) fn literal_prefix(&self) -> String {
        let first = self.parts.first().map_or(&[][..], |part| &part.steps);
        let chars = first.iter().map_while(|step| match step {
            Step::Exactly(char) => Some(*char),
            Step::Any => None,
        });
        chars.collect()
    }

    /// Whether the whole text matches. The parts between the first and the last are searched from
    /// left to right; taking the leftmost place for each leaves the most room for the others.
    pub(super) fn matches(&self, text: &str) -> bool {
        let Some((first, others)) = self.parts.split_first() else { return false };
        let Some(mut rest) = first.strip(text) else { return false };
        let Some((last, middle)) = others.split_last() else { return rest.is_empty() };
        for part in middle {
            let Some(after) = part.skip(rest) else { return false };
            rest = after;
        }
        let mut end = rest.chars();
        last.steps.iter().rev().all(|step| end.next_back().is_some_and(|found| step.accepts(found)))
    }
}

impl Part {
    fn new(steps: Vec<Step>) -> Self {
        let plain = steps.iter().map(|step| match step {
            Step::Exactly(char) => Some(*char),
            Step::Any => None,
        });
        let plain: Option<String> = plain.collect();
        Part { finder: plain.map(|text| Finder::new(&text).into_owned()), steps }
    }

    /// What follows this part at the start of `text`.
    fn strip<'a>(&self, text: &'a str) -> Option<&'a str> {
        let mut chars = text.chars();
        let mut steps = self.steps.iter();
        steps
            .all(|step| chars.next().is_some_and(|found| step.accepts(found)))
            .then_some(chars.as_str())
    }

    /// What follows this part at its leftmost place in `text`.
    fn skip<'a>(&self, text: &'a str) -> Option<&'a str> {
        if let Some(finder) = &self.finder {
            let start = finder.find(text.as_bytes())?;
            return text.get(start + finder.needle().len()..);
        }
        let mut starts = text.char_indices().map(|(start, _)| start).chain([text.len()]);
        starts.find_map(|start| self.strip(&text[start..]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_parts_are_searched_as_text() {
        let pattern = Pattern::new("a%é日%%_b%c\\%").unwrap();
        let plain: Vec<_> = pattern
            .parts
            .iter()
            .map(|part| part.finder.as_ref().map(|finder| finder.needle().to_vec()))
            .collect();
        let text = |text: &str| Some(text.as_bytes().to_vec());
        assert_eq!(plain, [text("a"), text("é日"), text(""), None, text("c%")]);
        assert!(pattern.matches("a-é-é日xb-c%"));
        assert!(!pattern.matches("a-é日b-c%"), "one character stands for the '_'");
        assert!(!pattern.matches("a-é日xbc"));
    }
}

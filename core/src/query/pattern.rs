//! LIKE patterns: `%` is any text, `_` any one character, `\` takes the next character as it is.

use std::ops::Range;

use memchr::memmem::Finder;

use super::budget::Budget;
use super::error::{QueryError, QueryErrorCode};

/// The longest pattern, in bytes: it bounds the work for each character of a document's text, of
/// which parts with a `_` may take many.
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
    /// Where among the steps the longest plain text stands: that is found in linear time, and the
    /// other steps are looked at only around it.
    plain: Range<usize>,
    finder: Finder<'static>,
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

    fn char(self) -> Option<char> {
        match self {
            Step::Any => None,
            Step::Exactly(char) => Some(char),
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
        first.iter().map_while(|step| step.char()).collect()
    }

    /// Whether the whole text matches; that means nothing once the work is used up. The parts
    /// between the first and the last are searched from left to right; taking the leftmost place
    /// for each leaves the most room for the others.
    pub(super) fn matches(&self, text: &str, budget: &Budget) -> bool {
        let Some((first, others)) = self.parts.split_first() else { return false };
        let Some(mut rest) = strip(&first.steps, text, budget) else { return false };
        let Some((last, middle)) = others.split_last() else { return rest.is_empty() };
        for part in middle {
            let Some(after) = part.skip(rest, budget) else { return false };
            rest = after;
        }
        is_end(&last.steps, rest, budget)
    }
}

impl Part {
    fn new(steps: Vec<Step>) -> Self {
        let plain = longest_plain(&steps);
        let text: String = steps[plain.clone()].iter().filter_map(|step| step.char()).collect();
        Part { finder: Finder::new(&text).into_owned(), plain, steps }
    }

    /// What follows this part at its leftmost place in `text`.
    fn skip<'a>(&self, text: &'a str, budget: &Budget) -> Option<&'a str> {
        let (before, after) = (&self.steps[..self.plain.start], &self.steps[self.plain.end..]);
        let mut start = 0;
        loop {
            let found = start + budget.find(&self.finder, &text.as_bytes()[start..])?;
            let (left, right) = (&text[..found], &text[found + self.finder.needle().len()..]);
            if is_end(before, left, budget)
                && let Some(rest) = strip(after, right, budget)
            {
                return Some(rest);
            }
            start = found + text[found..].chars().next()?.len_utf8();
        }
    }
}

/// Where the longest plain text stands among steps; the first one, if there are several.
fn longest_plain(steps: &[Step]) -> Range<usize> {
    let (mut longest, mut start) = (0..0, 0);
    for (place, step) in steps.iter().enumerate() {
        let end = place + 1;
        if *step == Step::Any {
            start = end;
        } else if end - start > longest.len() {
            longest = start..end;
        }
    }
    longest
}

/// What follows these steps at the start of `text`.
fn strip<'a>(steps: &[Step], text: &'a str, budget: &Budget) -> Option<&'a str> {
    let mut chars = text.chars();
    let accepts =
        |step: &Step| budget.work(1) && chars.next().is_some_and(|found| step.accepts(found));
    steps.iter().all(accepts).then_some(chars.as_str())
}

/// Whether `text` ends with these steps.
fn is_end(steps: &[Step], text: &str, budget: &Budget) -> bool {
    let mut chars = text.chars();
    let accepts =
        |step: &Step| budget.work(1) && chars.next_back().is_some_and(|found| step.accepts(found));
    steps.iter().rev().all(accepts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::new(text).unwrap()
    }

    /// Whether it matches, and how many steps that took.
    fn matches(like: &str, text: &str) -> (bool, usize) {
        let budget = Budget::new();
        (pattern(like).matches(text, &budget), budget.worked())
    }

    #[test]
    fn parts_are_found_by_their_longest_plain_text() {
        let plain: Vec<_> = pattern("a%é日%%_b_cd_ef%__%c\\%")
            .parts
            .iter()
            .map(|part| String::from_utf8(part.finder.needle().to_vec()).unwrap())
            .collect();
        assert_eq!(plain, ["a", "é日", "", "cd", "", "c%"]);
    }

    #[test]
    fn what_stands_around_the_plain_text_has_to_fit() {
        for (like, text, expected) in [
            ("a%é日%%_b%c\\%", "a-é-é日xb-c%", true),
            // One character stands for the '_'.
            ("a%é日%%_b%c\\%", "a-é日b-c%", false),
            ("a%é日%%_b%c\\%", "a-é日xbc", false),
            // The first place of the plain text is not the right one.
            ("%x_ab%", "ab x日ab", true),
            ("%ab_é%", "abab日é", true),
            ("%a_aa_b%", "aaaaaaaab", true),
            ("%aa_%aa", "aaaaa", true),
            ("%aa_%aa", "aaaa", false),
            ("%__%", "日", false),
            ("%__%", "日本", true),
            ("%_", "", false),
        ] {
            assert_eq!(matches(like, text).0, expected, "{like} {text}");
        }
    }

    #[test]
    fn a_search_takes_as_many_steps_as_it_is_work() {
        let text = "a".repeat(1 << 20);
        let plain = text.len() / 16;
        let gone = format!("%_{}b%", "a".repeat(100));
        for (like, least, most) in [
            // What is not there is looked for once.
            ("%b%", plain, plain + 8),
            (&gone, plain, plain + 8),
            // What is there everywhere is looked around each time.
            ("%aa_b%", 2 << 20, 4 << 20),
            // The place that is found ends the search.
            ("%a_a%", 1, 16),
            ("a%", 1, 16),
            ("b%", 1, 16),
        ] {
            let (_, steps) = matches(like, &text);
            assert!((least..=most).contains(&steps), "{like}: {steps}");
        }
    }

    #[test]
    fn a_search_ends_where_the_work_does() {
        let text = "a".repeat(1 << 16) + "cb";
        for like in ["%c%", "%aa_b%", "%a_b", "a%_b"] {
            let (found, steps) = matches(like, &text);
            assert!(found, "{like}");
            let enough = Budget::of_work(steps + 1);
            assert!(pattern(like).matches(&text, &enough) && !enough.is_used_up(), "{like}");
            let too_little = Budget::of_work(steps);
            pattern(like).matches(&text, &too_little);
            assert!(too_little.is_used_up(), "{like}");
        }
        // What lies behind it is not even looked at.
        let short = Budget::of_work(100);
        assert!(!pattern("%c%").matches(&text, &short));
        assert!(short.is_used_up());
    }
}

//! Documents to measure with: 400 bytes of JSON, like an order or a row of a report.

use std::fmt::Write;

/// About how large one is.
const BYTES: usize = 400;

/// The id of the `number`th document.
pub(super) fn document_id(series: &str, number: u64) -> String {
    format!("{series}-{number:09}")
}

/// Of documents without an id.
pub(super) const WITHOUT_IDS: &str = "";

/// The `number`th document, always the same, with its id in `series`.
pub(super) fn document(series: &str, number: u64) -> String {
    let id = document_id(series, number);
    let field = if series == WITHOUT_IDS { "id" } else { "_id" };
    let mut text = format!(
        r#"{{"{field}":"{id}","number":{number},"price":{},"open":{},"note":""#,
        number % 9973,
        number.is_multiple_of(3),
    );
    // Text that does not compress to nothing.
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while text.len() < BYTES - 2 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        // Writing to a string cannot fail.
        let _ = write!(text, "{:x} ", state >> 24);
    }
    text.truncate(BYTES - 2);
    text.push_str("\"}");
    text
}

/// Documents `from..to`, one a line.
pub(super) fn lines(series: &str, from: u64, to: u64) -> String {
    (from..to).map(|number| document(series, number) + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_json_of_one_size_and_differ() {
        let (first, second) = (document("a", 1), document("a", 2));
        for text in [&first, &second, &document("a", 999_999_999)] {
            assert_eq!(text.len(), BYTES);
            assert!(serde_json::from_str::<serde_json::Value>(text).is_ok(), "{text}");
        }
        assert_ne!(first, second);
        assert_eq!(lines("a", 1, 3), format!("{first}\n{second}\n"));
    }
}

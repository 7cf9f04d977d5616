//! Functions on strings. Places count characters, from 1, as in SQL.

use std::collections::BTreeSet;

use super::{MAX_RESULT_BYTES, count, integer, items, text};
use crate::Value;

pub(super) fn lower(values: &[&Value]) -> Option<Value> {
    Some(Value::String(text(values[0])?.to_lowercase()))
}

pub(super) fn upper(values: &[&Value]) -> Option<Value> {
    Some(Value::String(text(values[0])?.to_uppercase()))
}

pub(super) fn length(values: &[&Value]) -> Option<Value> {
    Some(count(text(values[0])?.chars().count()))
}

pub(super) fn byte_length(values: &[&Value]) -> Option<Value> {
    Some(count(text(values[0])?.len()))
}

pub(super) fn contains(values: &[&Value]) -> Option<Value> {
    Some(Value::Bool(
        memchr::memmem::find(text(values[0])?.as_bytes(), text(values[1])?.as_bytes()).is_some(),
    ))
}

pub(super) fn starts_with(values: &[&Value]) -> Option<Value> {
    Some(Value::Bool(text(values[0])?.starts_with(text(values[1])?)))
}

pub(super) fn ends_with(values: &[&Value]) -> Option<Value> {
    Some(Value::Bool(text(values[0])?.ends_with(text(values[1])?)))
}

/// Where the first one begins; 0 if there is none.
pub(super) fn position(values: &[&Value]) -> Option<Value> {
    let (whole, part) = (text(values[0])?, text(values[1])?);
    let found = memchr::memmem::find(whole.as_bytes(), part.as_bytes());
    Some(found.map_or(Value::Int(0), |at| count(whole[..at].chars().count() + 1)))
}

pub(super) fn replace(values: &[&Value]) -> Option<Value> {
    let (whole, part, by) = (text(values[0])?, text(values[1])?, text(values[2])?);
    if part.is_empty() {
        return Some(values[0].clone());
    }
    if by.len() > part.len() {
        let added = whole.matches(part).count().checked_mul(by.len() - part.len())?;
        let bytes = whole.len().checked_add(added)?;
        if bytes > MAX_RESULT_BYTES {
            return None;
        }
    }
    Some(Value::String(whole.replace(part, by)))
}

pub(super) fn trim(values: &[&Value]) -> Option<Value> {
    stripped(values, |text, characters| text.trim_matches(|next| characters.contains(&next)))
}

pub(super) fn ltrim(values: &[&Value]) -> Option<Value> {
    stripped(values, |text, characters| text.trim_start_matches(|next| characters.contains(&next)))
}

pub(super) fn rtrim(values: &[&Value]) -> Option<Value> {
    stripped(values, |text, characters| text.trim_end_matches(|next| characters.contains(&next)))
}

/// Without the characters given, or without spaces, at the ends that `strip` means.
fn stripped(
    values: &[&Value],
    strip: for<'a> fn(&'a str, &BTreeSet<char>) -> &'a str,
) -> Option<Value> {
    let characters: BTreeSet<char> = match values.get(1) {
        Some(characters) => text(characters)?.chars().collect(),
        None => [' '].into(),
    };
    Some(Value::String(strip(text(values[0])?, &characters).to_owned()))
}

/// The part of a text: from its end if `from` is below 0, up to its end if nothing says how much.
pub(super) fn substr(values: &[&Value]) -> Option<Value> {
    let (whole, from) = (text(values[0])?, integer(values[1])?);
    let length = i64::try_from(whole.chars().count()).ok()?;
    let first = if from < 0 { from.checked_add(length)?.checked_add(1)? } else { from };
    let end = match values.get(2) {
        Some(count) => first.saturating_add(integer(count)?),
        None => length + 1,
    };
    let (first, end) = (first.clamp(1, length + 1), end.clamp(1, length + 1));
    let skipped = usize::try_from(first - 1).ok()?;
    let taken = usize::try_from(end.saturating_sub(first).max(0)).ok()?;
    let (_, rest) = split_behind(whole, skipped);
    Some(Value::String(split_behind(rest, taken).0.to_owned()))
}

/// A text up to behind so many characters, and the rest.
fn split_behind(text: &str, characters: usize) -> (&str, &str) {
    let mut rest = text.chars();
    if let Some(others) = characters.checked_sub(1) {
        rest.nth(others);
    }
    text.split_at(text.len() - rest.as_str().len())
}

pub(super) fn split(values: &[&Value]) -> Option<Value> {
    let (whole, separator) = (text(values[0])?, text(values[1])?);
    if separator.is_empty() {
        return None;
    }
    let parts = whole.split(separator).map(|part| Value::String(part.to_owned()));
    Some(Value::Array(parts.collect()))
}

/// The strings of an array; NULL if something else is among them.
pub(super) fn array_join(values: &[&Value]) -> Option<Value> {
    let parts: Option<Vec<&str>> = items(values[0])?.iter().map(text).collect();
    let (parts, separator) = (parts?, text(values[1])?);
    let bytes = parts.iter().map(|part| part.len()).sum::<usize>();
    let bytes = parts.len().checked_mul(separator.len())?.checked_add(bytes)?;
    (bytes <= MAX_RESULT_BYTES).then(|| Value::String(parts.join(separator)))
}

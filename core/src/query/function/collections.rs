//! Functions on arrays, whose elements count from 0, and on objects.

use super::super::aggregate::Sum;
use super::super::order::{compare, total_cmp};
use super::{MAX_RESULT_BYTES, count, integer, items};
use crate::Value;

pub(super) fn array_length(values: &[&Value]) -> Option<Value> {
    Some(count(items(values[0])?.len()))
}

pub(super) fn array_concat(values: &[&Value]) -> Option<Value> {
    let parts: Option<Vec<&[Value]>> = values.iter().map(|value| items(value)).collect();
    let parts = parts?;
    let bytes = values.iter().map(|value| value.json_len()).sum::<usize>();
    (bytes <= MAX_RESULT_BYTES).then(|| Value::Array(parts.concat()))
}

/// NULL if there is no array, or nothing to look for; what is of another type is not equal.
pub(super) fn array_contains(values: &[Option<&Value>]) -> Option<Value> {
    let found = place(values)?;
    Some(found.map_or(Value::Null, |place| Value::Bool(place.is_some())))
}

/// Where the first one is that is equal; -1 if there is none.
pub(super) fn array_position(values: &[Option<&Value>]) -> Option<Value> {
    let found = place(values)?;
    Some(found.map_or(Value::Null, |place| place.map_or(Value::Int(-1), count)))
}

/// MISSING, NULL, or whether and where the value is in the array.
fn place(values: &[Option<&Value>]) -> Option<Option<Option<usize>>> {
    let (array, value) = (values[0]?, values[1]?);
    let Value::Array(items) = array else { return Some(None) };
    if *value == Value::Null {
        return Some(None);
    }
    Some(Some(
        items.iter().position(|item| compare(item, value).is_some_and(std::cmp::Ordering::is_eq)),
    ))
}

/// Each once, in the order of their first.
pub(super) fn array_distinct(values: &[&Value]) -> Option<Value> {
    let items = items(values[0])?;
    let mut places: Vec<usize> = (0..items.len()).collect();
    // The sort is stable, so the first of equal ones stays first.
    places.sort_by(|left, right| total_cmp(&items[*left], &items[*right]));
    places.dedup_by(|left, right| total_cmp(&items[*left], &items[*right]).is_eq());
    places.sort_unstable();
    Some(Value::Array(places.into_iter().map(|place| items[place].clone()).collect()))
}

pub(super) fn array_sort(values: &[&Value]) -> Option<Value> {
    let mut items = items(values[0])?.to_vec();
    items.sort_by(total_cmp);
    Some(Value::Array(items))
}

/// The elements from one place up to another, which is not among them; places below 0 count from the
/// end.
pub(super) fn array_slice(values: &[&Value]) -> Option<Value> {
    let items = items(values[0])?;
    let place = |value: &Value| {
        let (place, length) = (integer(value)?, i64::try_from(items.len()).ok()?);
        let place = if place < 0 { place.saturating_add(length) } else { place };
        usize::try_from(place.clamp(0, length)).ok()
    };
    let from = place(values[1])?;
    let to = match values.get(2) {
        Some(to) => place(to)?,
        None => items.len(),
    };
    Some(Value::Array(items.get(from..to).unwrap_or_default().to_vec()))
}

/// Of its numbers; NULL if there are none.
pub(super) fn array_sum(values: &[&Value]) -> Option<Value> {
    let mut sum = Sum::default();
    for item in items(values[0])? {
        sum.add(item);
    }
    Some(sum.total())
}

/// NULL if there is nothing but NULL.
pub(super) fn array_min(values: &[&Value]) -> Option<Value> {
    let items = items(values[0])?.iter().filter(|item| **item != Value::Null);
    items.min_by(|left, right| total_cmp(left, right)).cloned()
}

/// NULL if there is nothing but NULL.
pub(super) fn array_max(values: &[&Value]) -> Option<Value> {
    let items = items(values[0])?.iter().filter(|item| **item != Value::Null);
    items.max_by(|left, right| total_cmp(left, right)).cloned()
}

pub(super) fn object_keys(values: &[&Value]) -> Option<Value> {
    Some(Value::Array(values[0].as_object()?.keys().cloned().map(Value::String).collect()))
}

pub(super) fn object_values(values: &[&Value]) -> Option<Value> {
    Some(Value::Array(values[0].as_object()?.values().cloned().collect()))
}

pub(super) fn object_length(values: &[&Value]) -> Option<Value> {
    Some(count(values[0].as_object()?.len()))
}

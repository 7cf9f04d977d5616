//! Functions on dates: text as in RFC 3339 (without an offset it is UTC, without a time it is
//! midnight), or milliseconds since 1970 as an integer. What they give is text in UTC with
//! milliseconds, or an integer, as the date that they were given.

use jiff::civil::DateTime;
use jiff::tz::Offset;
use jiff::{Span, Timestamp, Unit};

use super::{integer, text};
use crate::Value;

/// No date has so many bytes. What is longer is not even tried: it would be copied into an error.
const TOO_LONG: usize = 64;

/// A point in time, and how it was written.
#[derive(Clone, Copy)]
struct Date {
    at: DateTime,
    is_text: bool,
}

impl Date {
    fn of(value: &Value) -> Option<Date> {
        match value {
            // A time zone would need tables that machines have different ones of.
            Value::String(text) if text.len() >= TOO_LONG || text.contains('[') => None,
            Value::String(text) => {
                let at = match text.parse::<Timestamp>() {
                    Ok(timestamp) => Offset::UTC.to_datetime(timestamp),
                    Err(_) => text.parse::<DateTime>().ok()?,
                };
                Some(Date { at, is_text: true })
            }
            other => {
                let at = Timestamp::from_millisecond(integer(other)?).ok()?;
                Some(Date { at: Offset::UTC.to_datetime(at), is_text: false })
            }
        }
    }

    fn timestamp(self) -> Option<Timestamp> {
        Offset::UTC.to_timestamp(self.at).ok()
    }

    fn epoch_ms(self) -> Option<i64> {
        self.timestamp().map(Timestamp::as_millisecond)
    }

    fn text(self) -> Option<Value> {
        Some(Value::String(format!("{:.3}", self.timestamp()?)))
    }

    /// As it was written.
    fn value(self) -> Option<Value> {
        if self.is_text { self.text() } else { self.epoch_ms().map(Value::Int) }
    }
}

/// Milliseconds since 1970.
pub(super) fn epoch_ms(values: &[&Value]) -> Option<Value> {
    Date::of(values[0])?.epoch_ms().map(Value::Int)
}

/// As text.
pub(super) fn timestamp(values: &[&Value]) -> Option<Value> {
    Date::of(values[0])?.text()
}

/// A unit's number within the next larger one; weeks and weekdays as in ISO 8601, from Monday as 1.
pub(super) fn date_part(values: &[&Value]) -> Option<Value> {
    let Date { at, .. } = Date::of(values[0])?;
    let part = match text(values[1])?.to_ascii_lowercase().as_str() {
        "year" => i64::from(at.year()),
        "quarter" => (i64::from(at.month()) + 2) / 3,
        "month" => i64::from(at.month()),
        "week" => i64::from(at.date().iso_week_date().week()),
        "weekday" => i64::from(at.weekday().to_monday_one_offset()),
        "day" => i64::from(at.day()),
        "dayofyear" => i64::from(at.day_of_year()),
        "hour" => i64::from(at.hour()),
        "minute" => i64::from(at.minute()),
        "second" => i64::from(at.second()),
        "millisecond" => i64::from(at.millisecond()),
        _ => return None,
    };
    Some(Value::Int(part))
}

/// The start of the unit that a date lies in.
pub(super) fn date_trunc(values: &[&Value]) -> Option<Value> {
    let Date { at, is_text } = Date::of(values[0])?;
    let midnight = |year, month, day| jiff::civil::date(year, month, day).at(0, 0, 0, 0);
    let day = midnight(at.year(), at.month(), at.day());
    let at = match text(values[1])?.to_ascii_lowercase().as_str() {
        "year" => midnight(at.year(), 1, 1),
        "quarter" => midnight(at.year(), (at.month() - 1) / 3 * 3 + 1, 1),
        "month" => midnight(at.year(), at.month(), 1),
        "week" => {
            let days = i64::from(at.weekday().to_monday_zero_offset());
            day.checked_sub(Span::new().days(days)).ok()?
        }
        "day" => day,
        "hour" => day.date().at(at.hour(), 0, 0, 0),
        "minute" => day.date().at(at.hour(), at.minute(), 0, 0),
        "second" => day.date().at(at.hour(), at.minute(), at.second(), 0),
        "millisecond" => {
            let nanoseconds = i32::from(at.millisecond()) * 1_000_000;
            day.date().at(at.hour(), at.minute(), at.second(), nanoseconds)
        }
        _ => return None,
    };
    Date { at, is_text }.value()
}

/// So many units later. A day that the month does not have is its last one.
pub(super) fn date_add(values: &[&Value]) -> Option<Value> {
    let Date { at, is_text } = Date::of(values[0])?;
    let (count, span) = (integer(values[1])?, Span::new());
    let span = match text(values[2])?.to_ascii_lowercase().as_str() {
        "year" => span.try_years(count),
        "quarter" => span.try_months(count.checked_mul(3)?),
        "month" => span.try_months(count),
        "week" => span.try_weeks(count),
        "day" => span.try_days(count),
        "hour" => span.try_hours(count),
        "minute" => span.try_minutes(count),
        "second" => span.try_seconds(count),
        "millisecond" => span.try_milliseconds(count),
        _ => return None,
    };
    let at = at.checked_add(span.ok()?).ok()?;
    Date { at, is_text }.value()
}

/// How many whole units lie between two dates; below 0 if the second is earlier.
pub(super) fn date_diff(values: &[&Value]) -> Option<Value> {
    let (from, to) = (Date::of(values[0])?.at, Date::of(values[1])?.at);
    let between = |unit: Unit| from.until((unit, to)).ok();
    let count = match text(values[2])?.to_ascii_lowercase().as_str() {
        "year" => i64::from(between(Unit::Year)?.get_years()),
        "quarter" => i64::from(between(Unit::Month)?.get_months()) / 3,
        "month" => i64::from(between(Unit::Month)?.get_months()),
        "week" => i64::from(between(Unit::Week)?.get_weeks()),
        "day" => i64::from(between(Unit::Day)?.get_days()),
        "hour" => i64::from(between(Unit::Hour)?.get_hours()),
        "minute" => between(Unit::Minute)?.get_minutes(),
        "second" => between(Unit::Second)?.get_seconds(),
        "millisecond" => between(Unit::Millisecond)?.get_milliseconds(),
        _ => return None,
    };
    Some(Value::Int(count))
}

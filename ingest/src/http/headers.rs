//! Headers and parts of the path that requests have in common.

use std::str::FromStr;
use std::time::Duration;

use anabranch_core::ids::{AppId, Collection, TxnId};
use axum::http::{HeaderMap, header};
use tokio::time::Instant;

use super::reply::TXN_HEADER;
use crate::config::IngestConfig;
use crate::error::{Code, Refusal};
use crate::idempotency::IdempotencyKey;
use crate::live::Seen;

const KEY_HEADER: &str = "idempotency-key";
const IF_MATCH_HEADER: &str = "x-anabranch-if-match";
const LAST_EVENT_HEADER: &str = "last-event-id";
const TIMEOUT_HEADER: &str = "x-anabranch-timeout-ms";
/// The shortest time that a client may give a request: less would be over before an answer is here.
pub(super) const LEAST_TIMEOUT_MS: u64 = 100;

/// The value of a header that may stand once.
fn value<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Refusal> {
    let wrong = |why| Refusal::new(Code::InvalidHeader, format!("the header {name} {why}"));
    let mut values = headers.get_all(name).iter();
    let Some(first) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(wrong("stands more than once"));
    }
    first.to_str().map(Some).map_err(|_| wrong("is not printable ASCII"))
}

fn number(headers: &HeaderMap, name: &str) -> Result<Option<u64>, Refusal> {
    let Some(text) = value(headers, name)? else { return Ok(None) };
    whole(text).map(Some).ok_or_else(|| {
        Refusal::new(Code::InvalidHeader, format!("the header {name} is not a whole number"))
    })
}

/// A number as it is written: digits, and nothing else.
pub(crate) fn whole(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { text.parse().ok() } else { None }
}

/// The transaction that a read must include.
pub(super) fn at_least(headers: &HeaderMap) -> Result<Option<TxnId>, Refusal> {
    Ok(number(headers, TXN_HEADER.as_str())?.map(TxnId))
}

/// The transaction since which documents have to be unchanged: a number, or an ETag as it was sent.
pub(super) fn unchanged_since(headers: &HeaderMap) -> Result<Option<TxnId>, Refusal> {
    let Some(text) = value(headers, IF_MATCH_HEADER)? else { return Ok(None) };
    let number = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    match whole(number) {
        Some(txn) => Ok(Some(TxnId(txn))),
        None => {
            let message = format!("the header {IF_MATCH_HEADER} is not a transaction id");
            Err(Refusal::new(Code::InvalidHeader, message)
                .with_hint("send the ETag of the document as it was read, such as 1042"))
        }
    }
}

/// Refuses a condition where it would not be heeded.
pub(super) fn refuse_unchanged_since(
    headers: &HeaderMap,
    hint: &'static str,
) -> Result<(), Refusal> {
    match value(headers, IF_MATCH_HEADER)? {
        None => Ok(()),
        Some(_) => {
            let message = format!("the header {IF_MATCH_HEADER} means nothing here");
            Err(Refusal::new(Code::InvalidHeader, message).with_hint(hint))
        }
    }
}

/// The last event that a subscriber got.
pub(super) fn last_event(headers: &HeaderMap) -> Result<Option<Seen>, Refusal> {
    // Who got none says so with an empty one.
    let id = value(headers, LAST_EVENT_HEADER)?.filter(|id| !id.is_empty());
    id.map(str::parse).transpose().map_err(|_| {
        let message = format!("the header {LAST_EVENT_HEADER} is not the id of an event");
        Refusal::new(Code::InvalidHeader, message).with_hint(
            "send the last 'id' that came, such as 1042-9f86d081884c7d65, or leave it out",
        )
    })
}

/// The name under which the request may be repeated.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, Refusal> {
    value(headers, KEY_HEADER)?.map(IdempotencyKey::from_str).transpose()
}

/// When the request is given up.
pub(super) fn deadline(headers: &HeaderMap, config: &IngestConfig) -> Result<Instant, Refusal> {
    Ok(Instant::now() + timeout(headers, config)?)
}

/// How long a request may take: as long as the client says, within limits.
pub(super) fn timeout(headers: &HeaderMap, config: &IngestConfig) -> Result<Duration, Refusal> {
    let timeout = match number(headers, TIMEOUT_HEADER)? {
        Some(millis) if millis < LEAST_TIMEOUT_MS => {
            let message = format!("the header {TIMEOUT_HEADER} is below {LEAST_TIMEOUT_MS}");
            return Err(Refusal::new(Code::InvalidHeader, message));
        }
        Some(millis) => Duration::from_millis(millis).min(config.max_request_timeout()),
        None => config.request_timeout(),
    };
    Ok(timeout)
}

/// The media type of a body, in lower case and without parameters.
pub(super) fn media_type(headers: &HeaderMap) -> Result<String, Refusal> {
    if value(headers, header::CONTENT_ENCODING.as_str())?.is_some_and(|it| it != "identity") {
        let message = "the body has a Content-Encoding; it must be sent as it is";
        return Err(Refusal::new(Code::UnsupportedMediaType, message));
    }
    let text = value(headers, header::CONTENT_TYPE.as_str())?.unwrap_or_default();
    Ok(without_parameters(text))
}

/// A media type in lower case.
fn without_parameters(text: &str) -> String {
    let media_type = text.split_once(';').map_or(text, |(media_type, _)| media_type);
    media_type.trim().to_ascii_lowercase()
}

/// Whether the client asks for this media type among others.
pub(super) fn accepts(headers: &HeaderMap, wanted: &str) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|text| without_parameters(text) == wanted)
}

/// The refusal of a media type.
pub(super) fn unsupported(found: &str, wanted: &str) -> Refusal {
    let message = match found {
        "" => "the header Content-Type is missing".to_owned(),
        found => format!("the Content-Type '{found}' is not known here"),
    };
    Refusal::new(Code::UnsupportedMediaType, message)
        .with_hint(format!("send it with -H 'Content-Type: {wanted}'"))
}

/// The app in a path.
pub(super) fn app(text: &str) -> Result<AppId, Refusal> {
    text.parse().map_err(|error| Refusal::new(Code::InvalidApp, format!("{error}")))
}

/// The collection in a path.
pub(super) fn collection(text: &str) -> Result<Collection, Refusal> {
    text.parse().map_err(|error| Refusal::new(Code::InvalidCollection, format!("{error}")))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_request_may_take_longer_if_that_is_said_within_limits() {
        let config = IngestConfig::default();
        let taking = |millis: u64| {
            let header = (TIMEOUT_HEADER.parse().unwrap(), HeaderValue::from(millis));
            timeout(&HeaderMap::from_iter([header]), &config).map(|time| time.as_millis())
        };
        assert_eq!(timeout(&HeaderMap::new(), &config).unwrap().as_millis(), 10_000);
        assert_eq!(taking(LEAST_TIMEOUT_MS).unwrap(), LEAST_TIMEOUT_MS.into());
        assert_eq!(taking(60_000).unwrap(), 60_000);
        assert_eq!(taking(u64::MAX).unwrap(), 600_000);
        assert_eq!(taking(LEAST_TIMEOUT_MS - 1).unwrap_err().code(), Code::InvalidHeader);
    }
}

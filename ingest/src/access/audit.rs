//! The audit log: who asked for what, and what came of it. It is part of the log of the process, with
//! the target `audit`; never bodies, never secrets. What was written stands in the journal, as the
//! transaction that is noted, and what was declared in the metadata, as that version.

use std::sync::{Arc, OnceLock};

use axum::extract::Request;
use axum::http::{HeaderName, Method, StatusCode, header};
use axum::response::Response;
use serde::{Deserialize, Serialize};

use super::ApiToken;
use crate::error::Code;
use crate::http::TXN_HEADER;

/// Which requests for documents are noted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Audit {
    /// None.
    Off,
    /// Those that are denied: without a valid key, or since it does not allow them.
    #[default]
    Denied,
    /// Those, and all that may have written something.
    Writes,
    /// All.
    All,
}

/// What a reply is of, such as `insert`: kept beside it.
#[derive(Clone, Copy)]
struct Kind(&'static str);

/// A reply, as of this kind of request.
pub(crate) fn of_kind(kind: &'static str, mut response: Response) -> Response {
    response.extensions_mut().insert(Kind(kind));
    response
}

/// What is kept of a request until it is answered.
pub(crate) struct Asked {
    method: Method,
    path: String,
    /// The name of the key that is shown; it may be a wrong one.
    key: Option<String>,
    sender: Sender,
}

/// Who sends a request, as soon as that is known: kept beside it.
#[derive(Clone, Default)]
pub(crate) struct Sender(Arc<OnceLock<String>>);

impl Sender {
    /// It is whoever has this name, let in or not.
    pub(crate) fn is(&self, name: &str) {
        self.0.get_or_init(|| name.to_owned());
    }
}

impl Asked {
    /// What is kept of a request, and beside it.
    pub(crate) fn of(request: &mut Request) -> Self {
        let shown = request.headers().get(header::AUTHORIZATION);
        let token = shown.and_then(|shown| shown.to_str().ok()?.split_once(' '));
        let token = token.and_then(|(_, token)| token.trim().parse::<ApiToken>().ok());
        let sender = Sender::default();
        request.extensions_mut().insert(sender.clone());
        Asked {
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            key: token.map(|token| token.name().to_string()),
            sender,
        }
    }

    /// Notes what came of a request for resources, whatever is noted of those for documents, if it
    /// was to change one or is denied: few are, and they decide who is let in at all.
    pub(crate) fn note_declared(&self, response: &Response) {
        let (status, Asked { method, path, .. }) = (response.status(), self);
        if method.is_safe() && !is_denied(status) {
            return;
        }
        let (kind, code) = (kind_of(response), code_of(response));
        let version = header_of(response, &header::ETAG).map(|tag| tag.trim_matches('"'));
        let (key, status) = (self.key(), status.as_u16());
        tracing::info!(
            target: "audit", key, %method, path, kind, status, code, version, "resource"
        );
    }

    /// Who sends it: a token tells only once it is verified.
    fn key(&self) -> Option<&str> {
        let sender = self.sender.0.get().filter(|name| !name.is_empty());
        sender.or(self.key.as_ref()).map(String::as_str)
    }
}

/// A request that is noted once it is answered, or its sender has gone away before that: what it was to
/// write may be written all the same.
pub(crate) struct Noting {
    audit: Audit,
    asked: Asked,
    is_answered: bool,
}

impl Noting {
    /// This is the answer.
    pub(crate) fn answered(mut self, response: &Response) {
        self.is_answered = true;
        self.audit.note(&self.asked, response);
    }
}

impl Drop for Noting {
    fn drop(&mut self) {
        if !self.is_answered {
            self.audit.note_gone(&self.asked);
        }
    }
}

impl Audit {
    /// A request has come.
    pub(crate) fn begin(self, asked: Asked) -> Noting {
        Noting { audit: self, asked, is_answered: false }
    }

    /// Notes a request whose sender does not wait for the answer, if it may be one of those.
    fn note_gone(self, asked: &Asked) {
        let Asked { method, path, .. } = asked;
        // What came of it is not known: it may have been done.
        if self.concerns(method, StatusCode::OK, None) {
            tracing::info!(target: "audit", key = asked.key(), %method, path, "gone");
        }
    }

    /// Notes a request that was answered, if it is one of those.
    fn note(self, asked: &Asked, response: &Response) {
        let (status, Asked { method, path, .. }) = (response.status(), asked);
        let kind = kind_of(response);
        if !self.concerns(method, status, kind) {
            return;
        }
        let (code, txn) = (code_of(response), header_of(response, &TXN_HEADER));
        let (key, status) = (asked.key(), status.as_u16());
        tracing::info!(target: "audit", key, %method, path, kind, status, code, txn, "request");
    }

    fn concerns(self, method: &Method, status: StatusCode, kind: Option<&str>) -> bool {
        let is_denied = is_denied(status);
        // Of what failed the kind is not known.
        let reads = method == Method::GET || matches!(kind, Some("select" | "explain"));
        match self {
            Audit::Off => false,
            Audit::Denied => is_denied,
            Audit::Writes => is_denied || !reads,
            Audit::All => true,
        }
    }
}

fn is_denied(status: StatusCode) -> bool {
    matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}

fn kind_of(response: &Response) -> Option<&'static str> {
    response.extensions().get::<Kind>().map(|Kind(kind)| *kind)
}

fn code_of(response: &Response) -> Option<&'static str> {
    response.extensions().get::<Code>().map(|code| code.as_str())
}

fn header_of<'a>(response: &'a Response, name: &HeaderName) -> Option<&'a str> {
    response.headers().get(name).and_then(|value| value.to_str().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_have_written_is_told_from_what_has_read() {
        let post = |audit: Audit, status, kind| audit.concerns(&Method::POST, status, kind);
        for (status, kind, expected) in [
            (StatusCode::OK, Some("select"), [false, false, false, true]),
            (StatusCode::OK, Some("explain"), [false, false, false, true]),
            (StatusCode::OK, Some("insert"), [false, false, true, true]),
            (StatusCode::OK, Some("load"), [false, false, true, true]),
            (StatusCode::SERVICE_UNAVAILABLE, None, [false, false, true, true]),
            (StatusCode::UNAUTHORIZED, None, [false, true, true, true]),
            (StatusCode::FORBIDDEN, Some("update"), [false, true, true, true]),
        ] {
            let all = [Audit::Off, Audit::Denied, Audit::Writes, Audit::All];
            assert_eq!(all.map(|audit| post(audit, status, kind)), expected, "{status} {kind:?}");
        }
        let get = |status| Audit::Writes.concerns(&Method::GET, status, None);
        assert!(!get(StatusCode::NOT_FOUND) && get(StatusCode::FORBIDDEN));
    }

    #[test]
    fn a_key_is_noted_by_its_name() {
        let token = ApiToken::draw("till-17".parse().unwrap());
        let shown = format!("Bearer {}", token.reveal());
        let request = |shown: &str| {
            let request = Request::get("/apps/x?key=1").header("authorization", shown);
            let mut request = request.body(axum::body::Body::empty()).unwrap();
            (Asked::of(&mut request), request)
        };
        let (asked, _) = request(&shown);
        assert_eq!((asked.path.as_str(), asked.key()), ("/apps/x", Some("till-17")));
        assert_eq!(request("Bearer secret").0.key(), None);
        // Of a token it is known once it is verified.
        let (asked, request) = request("Bearer a.b.c");
        assert_eq!(asked.key(), None);
        request.extensions().get::<Sender>().unwrap().is("tills/ann");
        assert_eq!(asked.key(), Some("tills/ann"));
    }
}

//! What the log notes of requests: who asked for what, and what came of it.

use std::io;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tracing::subscriber::DefaultGuard;

use super::access::guarded_with;
use crate::access::Audit;
use crate::config::IngestConfig;
use crate::doubles::{APP, execute_path, post};

/// What is written to the log.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// What this thread writes as long as the guard is held.
    pub(crate) fn begin() -> (Self, DefaultGuard) {
        let log = Log::default();
        let written = log.clone();
        let subscriber = tracing_subscriber::fmt().json().with_writer(move || written.clone());
        let guard = tracing::subscriber::set_default(subscriber.finish());
        (log, guard)
    }

    /// Everything since the last time.
    pub(crate) fn text(&self) -> String {
        String::from_utf8(mem::take(&mut *self.0.lock())).unwrap()
    }

    /// What was noted of requests since the last time.
    pub(crate) fn audited(&self) -> Vec<Value> {
        audited(&self.text())
    }
}

/// What a text has that was noted of requests.
pub(crate) fn audited(text: &str) -> Vec<Value> {
    let lines = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    lines.map(Result::unwrap).filter(|line| line["target"] == "audit").collect()
}

#[tokio::test]
async fn what_writes_and_what_reads_is_noted_as_the_setting_says() {
    let (log, _noted) = Log::begin();
    for audit in [Audit::Off, Audit::Denied, Audit::Writes, Audit::All] {
        let config = IngestConfig { audit, ..IngestConfig::default() };
        let everything = json!({"*": {"read": true, "write": true}});
        let (cluster, [key]) = guarded_with(config, [("till", everything)]).await;
        let headers = [("authorization", key.as_str())];
        let execute = |statement: &str| {
            let body = json!({"statement": statement}).to_string();
            post(&execute_path(), "application/json", &headers, body)
        };
        let insert = "INSERT INTO orders DOCUMENTS ({'text': 'hidden'})";
        let statements = [insert, "DELETE FROM orders WHERE TRUE"];
        let statements = statements.map(|statement| json!({"statement": statement}));
        let body = json!({"statements": statements}).to_string();
        let transaction = format!("/apps/{APP}/api/v1/store/transaction");
        let documents = format!("/apps/{APP}/api/v1/collections/orders/documents");
        for (request, kind, writes) in [
            (execute(insert), "insert", true),
            (post(&transaction, "application/json", &headers, body), "transaction", true),
            (post(&documents, "application/x-ndjson", &headers, "{\"n\": 1}"), "load", true),
            (execute("SELECT * FROM orders"), "select", false),
        ] {
            let path = request.uri().path().to_owned();
            let reply = cluster.send(request).await;
            assert_eq!(reply.status, StatusCode::OK, "{}", reply.text);
            let txn = reply.txn().expect("each says as of which transaction").to_string();
            let text = log.text();
            assert!(!text.contains("hidden"), "bodies are not noted: {text}");
            let noted: Vec<_> = audited(&text).iter().map(|line| line["fields"].clone()).collect();
            let expected = json!({
                "message": "request", "key": "till", "method": "POST", "path": path,
                "kind": kind, "status": 200, "txn": txn,
            });
            let is_noted = audit == Audit::All || (audit == Audit::Writes && writes);
            let expected = if is_noted { vec![expected] } else { Vec::new() };
            assert_eq!(noted, expected, "{audit:?}");
        }
    }
}

#[tokio::test]
async fn who_goes_away_is_noted_as_one_who_may_have_written() {
    let (log, _noted) = Log::begin();
    for (audit, is_noted) in [(Audit::Denied, false), (Audit::Writes, true)] {
        let config = IngestConfig { audit, ..IngestConfig::default() };
        let everything = json!({"*": {"read": true, "write": true}});
        let (cluster, [key]) = guarded_with(config, [("till", everything)]).await;
        cluster.log.set_lagging(true);
        let body = json!({"statement": "INSERT INTO orders DOCUMENTS ({'_id': 1})"}).to_string();
        let headers = [("authorization", key.as_str())];
        let request = post(&execute_path(), "application/json", &headers, body);
        let mut asking = Box::pin(cluster.send(request));
        // It is written, and nobody answers yet.
        while cluster.shared.world.lock().committed.is_empty() {
            assert!(futures::poll!(&mut asking).is_pending());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop(asking);
        let fields: Vec<_> = log.audited().iter().map(|line| line["fields"].clone()).collect();
        let expected =
            json!({"message": "gone", "key": "till", "method": "POST", "path": execute_path()});
        assert_eq!(fields, if is_noted { vec![expected] } else { Vec::new() }, "{audit:?}");
    }
}

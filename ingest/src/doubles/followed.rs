//! Somebody who follows a live query.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::{Request, StatusCode};
use futures::StreamExt;
use serde_json::Value;
use tokio::time::timeout;

use super::{APP, Cluster};

/// An event.
#[derive(Debug, PartialEq)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) id: Option<u64>,
    pub(crate) data: Value,
}

/// Somebody who follows a query.
pub(crate) struct Followed {
    stream: BodyDataStream,
    text: String,
    /// The transaction of the last event, and its id.
    pub(crate) last: Option<u64>,
    pub(crate) id: String,
}

impl Followed {
    /// Somebody who asks for that.
    pub(crate) async fn begin(cluster: &Cluster, request: Request<Body>) -> Self {
        let reply = cluster.raw(request).await;
        assert_eq!(reply.status(), StatusCode::OK);
        assert_eq!(reply.headers()["content-type"], "text/event-stream");
        let stream = reply.into_body().into_data_stream();
        Followed { stream, text: String::new(), last: None, id: String::new() }
    }

    /// The next event that has data; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        loop {
            let (name, data) = self.any().await?;
            if !data.is_empty() {
                let data = serde_json::from_str(&data).unwrap_or_else(|_| panic!("{data}"));
                return Some(Event { name, id: self.last, data });
            }
        }
    }

    /// Up to where it is told that nothing has changed: by an id, and nothing else.
    pub(crate) async fn progress(&mut self) -> Option<u64> {
        let before = self.id.clone();
        while self.id == before {
            let nothing = (String::new(), String::new());
            assert_eq!(self.any().await, Some(nothing), "only how far it is");
        }
        self.last
    }

    /// The name and the data of what comes next; `None` at the end.
    async fn any(&mut self) -> Option<(String, String)> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let event = event.to_owned();
                self.text = rest.to_owned();
                let (mut name, mut data) = (String::new(), String::new());
                for line in event.lines() {
                    match line.split_once(':').expect("a field and its value") {
                        ("event", value) => name = value.trim().to_owned(),
                        ("data", value) => data += value.trim(),
                        ("id", value) => {
                            let (txn, _) = value.trim().split_once('-').expect("a tag");
                            self.last = txn.parse().ok();
                            self.id = value.trim().to_owned();
                        }
                        ("", _) | ("retry", _) => {}
                        other => panic!("{other:?}"),
                    }
                }
                return Some((name, data));
            }
            let next = timeout(Duration::from_secs(30), self.stream.next());
            let bytes = next.await.expect("something is sent").transpose().unwrap()?;
            self.text += std::str::from_utf8(&bytes).expect("UTF-8");
        }
    }

    /// The rows of the next event, which is a whole result.
    pub(crate) async fn result(&mut self) -> Value {
        let Event { name, id, mut data } = self.next().await.expect("an event");
        assert_eq!(name, "result", "{data}");
        assert_eq!(data["transactionId"].as_u64(), id);
        data["items"].take()
    }

    /// The changes of the next event.
    pub(crate) async fn changes(&mut self) -> Value {
        let Event { name, id, mut data } = self.next().await.expect("an event");
        assert_eq!(name, "change", "{data}");
        assert_eq!(data["transactionId"].as_u64(), id);
        data["changes"].take()
    }
}

/// A request to follow a query.
pub(crate) fn request(query: &str, headers: &[(&str, &str)]) -> Request<Body> {
    let query: String = query.bytes().map(|byte| format!("%{byte:02x}")).collect();
    path(&format!("query={query}"), headers)
}

/// A request to follow what these parameters say.
pub(crate) fn path(parameters: &str, headers: &[(&str, &str)]) -> Request<Body> {
    let request = Request::get(format!("/apps/{APP}/api/v1/store/subscribe?{parameters}"));
    let request =
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    request.body(Body::empty()).unwrap()
}

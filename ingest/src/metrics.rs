//! What an ingest server did, as metrics.

use axum::extract::{MatchedPath, Request};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;
use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram};
use metrics::{gauge, histogram};
use tokio::time::Instant;

const REQUESTS: &str = "anabranch_ingest_requests_total";
const REQUEST_SECONDS: &str = "anabranch_ingest_request_seconds";
const CONNECTIONS: &str = "anabranch_ingest_connections";
const IN_FLIGHT: &str = "anabranch_ingest_requests_in_flight";
const TURNED_AWAY: &str = "anabranch_ingest_requests_turned_away_total";
const SUBSCRIPTIONS: &str = "anabranch_ingest_subscriptions";
const LIVE_QUERIES: &str = "anabranch_ingest_live_queries";
const LIVE_READS: &str = "anabranch_ingest_live_query_reads_total";
const LIVE_BYTES: &str = "anabranch_ingest_live_query_bytes";
const LIVE_MISSED: &str = "anabranch_ingest_live_query_misses_total";
const LIVE_LAG: &str = "anabranch_ingest_live_query_lag_transactions";
const ROUNDS: &str = "anabranch_ingest_rounds_total";
const ROUND_SECONDS: &str = "anabranch_ingest_round_seconds";
const ROUND_TRIES: &str = "anabranch_ingest_round_retries_total";
const RECEIVED: &str = "anabranch_ingest_load_documents_received_total";
const LOADED: &str = "anabranch_ingest_load_documents_written_total";

/// Says what each metric is.
pub(crate) fn describe() {
    describe_counter!(REQUESTS, "Requests answered, by route, method and status");
    describe_histogram!(REQUEST_SECONDS, Unit::Seconds, "From a request's head to its reply's");
    describe_gauge!(CONNECTIONS, "Connections that are open");
    describe_gauge!(IN_FLIGHT, "Requests whose reply has not begun");
    describe_counter!(TURNED_AWAY, "Requests refused since too many ran");
    describe_gauge!(SUBSCRIPTIONS, "Clients that follow a live query");
    describe_gauge!(LIVE_QUERIES, "Live queries that are kept, each for all that follow it");
    describe_counter!(LIVE_READS, "Times that rows of live queries were read from store nodes");
    describe_gauge!(LIVE_BYTES, Unit::Bytes, "Memory that live queries take");
    describe_counter!(LIVE_MISSED, "Times that a live query was not told of a change");
    describe_gauge!(LIVE_LAG, "Transactions that are applied and did not come to live queries yet");
    describe_counter!(ROUNDS, "Rounds given to the journal, by result");
    describe_histogram!(ROUND_SECONDS, Unit::Seconds, "From giving a round to its commit");
    describe_counter!(ROUND_TRIES, "Rounds that were written again, by reason");
    describe_counter!(RECEIVED, "Documents that arrived in bulk loads");
    describe_counter!(LOADED, "Documents of bulk loads that were written");
}

/// Counts while it lives.
pub(crate) struct Counted(&'static str);

impl Counted {
    fn new(name: &'static str) -> Self {
        gauge!(name).increment(1.0);
        Counted(name)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        gauge!(self.0).decrement(1.0);
    }
}

/// A connection is open.
pub(crate) fn connection() -> Counted {
    Counted::new(CONNECTIONS)
}

/// A request was refused since too many ran.
pub(crate) fn turned_away() {
    counter!(TURNED_AWAY).increment(1);
}

/// Somebody follows a live query.
pub(crate) fn subscription() -> Counted {
    Counted::new(SUBSCRIPTIONS)
}

/// A live query is kept.
pub(crate) fn live_query() -> Counted {
    Counted::new(LIVE_QUERIES)
}

/// The rows of a live query are read.
pub(crate) fn live_read() {
    counter!(LIVE_READS).increment(1);
}

/// So much memory is taken by live queries.
pub(crate) fn live_bytes(bytes: usize) {
    #[expect(clippy::cast_precision_loss, reason = "it is far below 2^52")]
    gauge!(LIVE_BYTES).set(bytes as f64);
}

/// A live query was not told of a change.
pub(crate) fn live_missed() {
    counter!(LIVE_MISSED).increment(1);
}

/// So many transactions are applied that did not come to live queries yet.
pub(crate) fn live_lag(transactions: u64) {
    #[expect(clippy::cast_precision_loss, reason = "it is far below 2^52")]
    gauge!(LIVE_LAG).set(transactions as f64);
}

/// A round was given to the journal.
pub(crate) fn round(started: Instant, result: &'static str) {
    counter!(ROUNDS, "result" => result).increment(1);
    histogram!(ROUND_SECONDS).record(started.elapsed().as_secs_f64());
}

/// A round is written again.
pub(crate) fn round_again(reason: &'static str) {
    counter!(ROUND_TRIES, "reason" => reason).increment(1);
}

/// A bulk load ended.
pub(crate) fn loaded(received: u64, written: u64) {
    counter!(RECEIVED).increment(received);
    counter!(LOADED).increment(written);
}

/// Anybody can make up methods; the labels of a metric have to be few.
fn method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

/// Counts and times requests.
pub(crate) async fn observe(request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or("unknown", MatchedPath::as_str).to_owned();
    let method = method(request.method());
    let started = Instant::now();
    let _counted = Counted::new(IN_FLIGHT);
    let response = next.run(request).await;
    let status = response.status().as_str().to_owned();
    histogram!(REQUEST_SECONDS, "route" => route.clone()).record(started.elapsed().as_secs_f64());
    counter!(REQUESTS, "route" => route, "method" => method, "status" => status).increment(1);
    response
}

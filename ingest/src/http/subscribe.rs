//! `GET /apps/{app}/api/v1/store/subscribe`: server-sent events.

use std::convert::Infallible;
use std::sync::Arc;

use anabranch_core::Value;
use anabranch_core::query::Args;
use axum::Extension;
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::Response;
use futures::stream;

use super::parameters::{Followed, FollowedHeaders, OfApp};
use super::reply::ErrorReply;
use super::{Api, headers, path_refusal, query_refusal};
use crate::access::Sender;
use crate::error::{Code, Refusal};
use crate::live::{self, Start, Subscription};
use crate::store::At;

const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream");
/// What tells a proxy of the usual kind to pass on events as they come.
const BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// What somebody is sent who follows a query.
const EXAMPLE: &str = r#"event: result
id: 1042-9f86d081884c7d65
data: {"transactionId":1042,"items":[
data: {"Name":"mazda mx-5","_id":"mx5"}
data: ]}

event: change
id: 1050-2c70e12b7a0646f9
data: {"transactionId":1050,"changes":[
data: {"type":"remove","_id":"mx5"}
data: ]}

"#;

/// Follows the result of a SELECT.
#[utoipa::path(
    get,
    path = "/apps/{app}/api/v1/store/subscribe",
    tag = "documents",
    description = "First the result of a SELECT, then what changes it, as server-sent events. \
        `result` has all rows in `items`; `change` has in `changes` what changed in them, each \
        transaction whole: `{\"type\": \"set\", \"_id\", \"item\"}` puts the row of a document, with ORDER BY behind the row of \
        the document `after` (`null`: first), `{\"type\": \"remove\", \"_id\"}` takes it away. First \
        all rows that are named are taken out, then those that are set are put in, in this order. An event is as of \
        `transactionId`; an id without data says how far the rows are. One whose rows are groups gives a `result` each time. Who comes back \
        with the id of the last event gets what changed since, or a `result` if that is not known any more. \
        `end` says in `error` why no more will come.",
    params(Followed, FollowedHeaders, OfApp),
    security(("key" = [])),
    responses(
        (status = 200, description = "Events, until one of the two goes away",
            body = String, content_type = "text/event-stream", example = json!(EXAMPLE)),
        (status = 400, description = "The statement or the request is wrong", body = ErrorReply),
        (status = 401, description = "No valid key is shown", body = ErrorReply),
        (status = 403, description = "The key does not allow to read in this collection", body = ErrorReply),
        (status = 409, description = "This cluster has no such transaction", body = ErrorReply),
        (status = 414, description = "The address is longer than 64 KiB"),
        (status = 422, description = "The result is too large to be kept", body = ErrorReply),
        (status = 500, description = "The server is at fault", body = ErrorReply),
        (status = 503, description = "Not now", body = ErrorReply,
            headers(("Retry-After" = u64, description = "When to come again, in seconds"))),
        (status = 504, description = "It took too long", body = ErrorReply,
            headers(("Retry-After" = u64, description = "When to come again, in seconds"))),
    ),
)]
pub(super) async fn subscribe(
    State(api): State<Arc<Api>>,
    path: Result<Path<String>, PathRejection>,
    followed: Result<Query<Followed>, QueryRejection>,
    Extension(sender): Extension<Sender>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let Path(app) = path.map_err(|rejection| path_refusal(&rejection))?;
    let app = headers::app(&app)?;
    let caller = api.keys.caller(app, &headers, &sender).await?;
    let Query(Followed { query, args }) =
        followed.map_err(|rejection| query_refusal(&rejection))?;
    let args = args.as_deref().map_or_else(|| Ok(Args::new()), arguments)?;
    let start =
        Start { has: headers::last_event(&headers)?, at_least: headers::at_least(&headers)? };
    let deadline = headers::deadline(&headers, &api.config)?;
    let mut subscription = api.live.subscribe(app, caller, query, &args, start)?;
    let at = At::Newest(start.seen());
    api.log_end.seen(at, subscription.ready(deadline)).await?;
    let mut response = Response::new(events(subscription));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, EVENTS);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(BUFFERING, HeaderValue::from_static("no"));
    Ok(response)
}

fn arguments(text: &str) -> Result<Args, Refusal> {
    let refuse = |why: &str| {
        let message = format!("the parameter 'args' is no JSON object{why}");
        Refusal::new(Code::InvalidParameter, message)
    };
    match Value::from_json(text.as_bytes()) {
        Ok(Value::Object(args)) => Ok(args),
        Ok(_) => Err(refuse("")),
        Err(error) => Err(refuse(&format!(": {error}"))),
    }
}

/// Events until there are no more, and why.
fn events(subscription: Subscription) -> Body {
    Body::from_stream(stream::unfold(Some(subscription), |subscription| async {
        let mut subscription = subscription?;
        match subscription.next().await {
            Ok(text) => Some((Ok::<_, Infallible>(text), Some(subscription))),
            Err(refusal) => Some((Ok(live::ended(&refusal)), None)),
        }
    }))
}

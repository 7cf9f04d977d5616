//! What operators declare: resources.
//!
//! Served on a listener of its own, on the loopback by default, to whoever shows the admin key:
//! they may change what is replicated, and who is let in. Calls of the journal block, so they run
//! on threads for that, and whoever waits for them waits up to a deadline.

mod cluster;
mod key;
mod leaving;
mod openapi;
mod parameters;
mod replication;
mod resources;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anabranch_core::ids::AppId;
use anabranch_journal::Journal;
use anabranch_journal::metadata::{ClusterIdentity, MetadataStore, OpenedLater};
use anabranch_runtime::grpc::AnyOf;
use anabranch_schemas::resources::ResourceName;
use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::task::JoinError;
use tokio::time::{Instant, timeout_at};

use crate::access::{ApiToken, Asked, ShownKey, shown_key};
use crate::error::{Code, Refusal};
use crate::hosts::Hosts;
use crate::http::{method_not_allowed, unknown_route};

/// How long an operator waits.
const DEADLINE: Duration = Duration::from_secs(10);

/// What the bridge of this process knows of a replication, if it runs here.
pub type ReplicationProbe =
    Arc<dyn Fn(AppId, &ResourceName) -> Option<serde_json::Value> + Send + Sync>;

/// Who may declare resources.
#[derive(Clone, Debug)]
pub enum Operators {
    /// Whoever reaches the listener.
    Anyone,
    /// Whoever shows this key.
    Holding(ApiToken),
    /// Nobody: there is no key to show.
    Nobody,
}

/// A cluster, as those see it who operate it.
pub struct Operated {
    /// Who they are.
    pub operators: Operators,
    /// Its log, which has the resources.
    pub journal: Arc<dyn Journal>,
    /// Which one it is.
    pub cluster: ClusterIdentity,
    /// What is known of the replications that run in this process.
    pub replications: Option<ReplicationProbe>,
    /// Its store nodes. `None` if this process is the whole cluster: its one store node has
    /// everything, whatever is declared.
    pub store_nodes: Option<AnyOf>,
}

/// What the handlers share.
struct Admin {
    operators: Operators,
    journal: Arc<dyn Journal>,
    cluster: ClusterIdentity,
    store_nodes: Option<AnyOf>,
    metadata: OpenedLater,
    replications: Option<ReplicationProbe>,
}

/// The routes for operators of a cluster, `/api/v1/resources` and `/openapi.json`, for a listener
/// at `address`. They answer to the names in `allowed_hosts`, as
/// [`IngestConfig::allowed_hosts`](crate::IngestConfig::allowed_hosts) says.
pub fn admin_routes(address: SocketAddr, allowed_hosts: &[String], operated: Operated) -> Router {
    guarded(address, allowed_hosts, routes(operated))
}

/// The same routes, which answer only to the names that a listener at `address` answers to, as
/// [`IngestConfig::allowed_hosts`](crate::IngestConfig::allowed_hosts) says.
pub fn guarded(address: SocketAddr, allowed_hosts: &[String], routes: Router) -> Router {
    Hosts::at(address, allowed_hosts).guard(routes)
}

fn routes(operated: Operated) -> Router {
    let Operated { operators, journal, cluster, replications, store_nodes } = operated;
    let metadata = OpenedLater::new(Arc::clone(&journal), cluster.name.clone());
    let admin =
        Arc::new(Admin { operators, journal, cluster, store_nodes, metadata, replications });
    let one = get(resources::read).put(resources::write).delete(resources::remove);
    Router::new()
        .route("/api/v1/resources", get(resources::list))
        .route("/api/v1/resources/{kind}", get(resources::list_kind))
        .route("/api/v1/resources/{kind}/{name}", one.clone())
        .route("/api/v1/resources/{kind}/{app}/{name}", one)
        .route_layer(from_fn_with_state(Arc::clone(&admin), admit))
        .route("/openapi.json", get(openapi::openapi))
        .fallback(unknown_route)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(admin)
}

/// Lets in those who may declare resources, and notes what they change. A change is made also for
/// those who go away before it is, so this goes on without them.
async fn admit(State(admin): State<Arc<Admin>>, mut request: Request, next: Next) -> Response {
    let asked = Asked::of(&mut request);
    let answering = tokio::spawn(async move {
        let response = match admin.operators.admit(&request) {
            Ok(()) => next.run(request).await,
            Err(refusal) => refusal.into_response(),
        };
        asked.note_declared(&response);
        response
    });
    answering.await.unwrap_or_else(|error| broken_off(&error).into_response())
}

fn broken_off(error: &JoinError) -> Refusal {
    Refusal::new(Code::Internal, format!("a request broke off: {error}"))
}

impl Operators {
    /// Refuses whoever is none of them.
    fn admit(&self, request: &Request) -> Result<(), Refusal> {
        const HINT: &str = "send the admin key with -H 'Authorization: Bearer KEY'; commands take \
                            --admin-key-file";
        let refuse = |message: &str| Refusal::new(Code::Unauthenticated, message);
        match self {
            Operators::Anyone => Ok(()),
            Operators::Nobody => Err(refuse("this server was started without an admin key")
                .with_hint(
                    "start it with --admin-key-file FILE; the file is made if it is not there",
                )),
            Operators::Holding(token) => {
                let shown = shown_key(request.headers());
                match shown.map_err(|refusal| refusal.with_hint(HINT))? {
                    ShownKey::ApiKey(shown) if shown.is_same_as(token) => Ok(()),
                    ShownKey::ApiKey(_) | ShownKey::Token(_) => {
                        Err(refuse("this is not the admin key").with_hint(HINT))
                    }
                }
            }
        }
    }
}

impl Admin {
    /// The metadata.
    fn metadata(&self) -> Result<&MetadataStore, Refusal> {
        self.metadata.get().map_err(|error| Refusal::of_metadata(&error))
    }

    /// Runs what blocks on a thread for that, and waits for it up to the deadline.
    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        what: impl FnOnce(&Admin) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let admin = self.clone();
        let work = tokio::task::spawn_blocking(move || what(&admin));
        match timeout_at(Instant::now() + DEADLINE, work).await {
            Ok(Ok(result)) => result,
            Ok(Err(error)) => Err(broken_off(&error)),
            Err(_) => Err(Refusal::new(
                Code::JournalUnavailable,
                format!("the journal did not answer within {DEADLINE:?}"),
            )
            .with_hint("ask again later; a change may have been made, so read it back")),
        }
    }
}

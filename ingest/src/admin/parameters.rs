//! What the routes for operators are given, and what they reply, as it is described: what is let
//! through by a description of a request is taken, and the other way round, as far as a schema can
//! say it. A reply may have further fields some day; one of a newer server has.

use anabranch_schemas::resources::Kind;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::openapi::path::Parameter;
use utoipa::openapi::schema::ObjectBuilder;
use utoipa::{IntoParams, IntoResponses, ToSchema};
use uuid::Uuid;

use crate::http::ErrorReply;
use crate::http::parameters::{app, header, in_path, stand_for, text};

/// The kinds that belong to an app.
const OF_APPS: [Kind; 2] = [Kind::Replication, Kind::Key];
/// What the names of clusters look like.
const CLUSTER_NAME: &str = "^[a-z][a-z0-9-]{0,63}$";
/// What the names of other resources look like.
const RESOURCE_NAME: &str = "^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$";
/// The ETag of a resource.
const VERSION: &str = r#"^"[0-9]{1,19}"$"#;

/// The parts of a path that names a resource.
#[derive(Deserialize)]
pub(super) struct Parts {
    pub(super) kind: String,
    pub(super) app: Option<String>,
    pub(super) name: String,
}

/// How a cluster is declared. Of an app nothing has nodes that could be lost.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct WriteParameters {
    /// Whether a cluster may lose what only nodes have that leave it
    #[serde(default)]
    pub(super) lose: bool,
}

/// The path of the resources of a kind.
pub(super) struct OfKind;
/// The path of a resource of an app.
pub(super) struct OfResource;
/// The path of a cluster.
pub(super) struct OfCluster;
/// The headers with which a resource is declared.
pub(super) struct WriteHeaders;
/// The headers with which a resource is removed.
pub(super) struct RemoveHeaders;

stand_for! {
    OfKind: kind(&Kind::ALL);
    OfResource: kind(&OF_APPS), app(), name(RESOURCE_NAME, "japanese");
    OfCluster: name(CLUSTER_NAME, "east");
    WriteHeaders: if_match("The version that is to be replaced"), if_none_match();
    RemoveHeaders: if_match("The version that is to be removed");
}

fn kind(kinds: &[Kind]) -> Parameter {
    let description = "The kind, in any case, in the singular or the plural";
    in_path("kind", description, one_of(kinds), "replication")
}

fn name(pattern: &str, example: &str) -> Parameter {
    in_path("name", "The name", text().pattern(Some(pattern)), example)
}

fn if_match(description: &str) -> Parameter {
    header("If-Match", description, text().pattern(Some(VERSION)))
}

fn if_none_match() -> Parameter {
    let description = "`*`: only if there is none. Not with If-Match";
    header("If-None-Match", description, text().pattern(Some(r"^\*$")))
}

/// One of these kinds as [`Kind`] reads it. Patterns of JSON Schema have no flag for any case.
fn one_of(kinds: &[Kind]) -> ObjectBuilder {
    let any_case = |letter: char| {
        let (upper, lower) = (letter.to_ascii_uppercase(), letter.to_ascii_lowercase());
        format!("[{upper}{lower}]")
    };
    let word = |kind: &Kind| kind.as_str().chars().map(any_case).collect::<String>();
    let words: Vec<_> = kinds.iter().map(word).collect();
    text().pattern(Some(format!("^({})[Ss]?$", words.join("|"))))
}

fn kind_in_body() -> ObjectBuilder {
    let kind = one_of(&Kind::ALL).description(Some("As in the path: one of its spellings."));
    kind.examples(["Replication"])
}

/// What an operator declares.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[allow(dead_code, reason = "it describes what is read as one value")]
pub(super) struct ResourceBody {
    /// `anabranch/v1`
    #[schema(pattern = "^anabranch/v1$")]
    api_version: String,
    #[schema(schema_with = kind_in_body)]
    kind: String,
    metadata: ResourceMetadata,
    /// What a resource of this kind declares: of a cluster its partitions, of a replication where
    /// the other cluster is and what is wanted of it, of a key what its holders may do.
    #[schema(value_type = Object)]
    spec: Value,
    /// It is computed: what is sent is left out.
    #[schema(value_type = serde_json::Value, required = false)]
    status: Option<Value>,
}

/// What a resource is called.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "it describes what is read as one value")]
pub(super) struct ResourceMetadata {
    /// As in the path.
    name: String,
    /// As in the path. A cluster is of no app, and has no such field.
    #[schema(value_type = uuid::Uuid, required = false)]
    app: Option<Uuid>,
}

/// A resource.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(dead_code, reason = "it describes what is sent as one value")]
pub(super) struct ResourceReply {
    /// `anabranch/v1`
    #[schema(example = "anabranch/v1")]
    api_version: String,
    /// `Cluster`, `Key` or `Replication`.
    #[schema(example = "Replication")]
    kind: String,
    metadata: MetadataReply,
    /// What it declares.
    #[schema(value_type = Object)]
    spec: Value,
    /// How it is doing. The reply to whoever declares it does not say so.
    #[schema(value_type = Object, required = false)]
    status: Option<Value>,
}

/// What a resource is called.
#[derive(Serialize, ToSchema)]
#[allow(dead_code, reason = "it describes what is sent as one value")]
pub(super) struct MetadataReply {
    name: String,
    /// A cluster is of no app, and has no such field.
    #[schema(value_type = uuid::Uuid, required = false)]
    app: Option<Uuid>,
}

/// A resource that this server cannot read, such as one that a newer server has declared: of what
/// it says, only what it is called is shown, as it is.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(dead_code, reason = "it describes what is sent as one value")]
pub(super) struct UnreadableReply {
    /// `null` if it does not say so.
    #[schema(value_type = serde_json::Value)]
    api_version: Value,
    /// `null` if it does not say so.
    #[schema(value_type = serde_json::Value)]
    kind: Value,
    /// `null` if it does not say so.
    #[schema(value_type = serde_json::Value)]
    metadata: Value,
    status: UnreadableStatus,
}

/// That a resource cannot be read, and why.
#[derive(Serialize, ToSchema)]
#[allow(dead_code, reason = "it describes what is sent as one value")]
pub(super) struct UnreadableStatus {
    /// `unreadable`
    #[schema(pattern = "^unreadable$")]
    state: String,
    /// The key of its entry, and what is wrong with it.
    error: String,
}

/// A resource in a list.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "it describes what is sent as one or the other")]
pub(super) enum ListedResource {
    /// It can be read.
    Readable(ResourceReply),
    /// It cannot be read.
    Unreadable(UnreadableReply),
}

/// Resources, each with its status.
#[derive(Serialize, ToSchema)]
pub(super) struct ResourceList {
    #[schema(value_type = Vec<ListedResource>)]
    pub(super) items: Vec<Value>,
}

/// The replies of any route to whoever is not let in, and of a server that cannot do it.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "it only describes them")]
pub(super) enum NotDone {
    /// The admin key is not shown
    #[response(status = 401)]
    Unauthenticated(ErrorReply),
    /// The server does not answer to the host that was asked
    #[response(status = 403)]
    OtherHost(ErrorReply),
    /// The server is at fault
    #[response(status = 500)]
    Failed(ErrorReply),
    /// Not now
    #[response(status = 503, headers(
        ("Retry-After" = u64, description = "When to come again, in seconds"),
    ))]
    NotNow(ErrorReply),
}

/// The replies of a route that changes something, where it does not.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "it only describes them")]
pub(super) enum NotChanged {
    /// The request is wrong
    #[response(status = 400)]
    Wrong(ErrorReply),
    /// The server's disk is full
    #[response(status = 507, headers(
        ("Retry-After" = u64, description = "When to come again, in seconds"),
    ))]
    DiskFull(ErrorReply),
}

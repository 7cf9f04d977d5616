//! From an address or an accepted connection to a link: one Hello in each direction.
//!
//! The dialling side speaks first, so that the listening side, which serves many apps, can find
//! its replication before it answers. Every wait has a bound.

use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;
use tokio_util::codec::Framed;
use uuid::Uuid;

use anabranch_core::ids::{ActorId, AppId};
use anabranch_runtime::clock::now_millis;
use anabranch_schemas::link::{Hello, Refusal, message::Kind};
use anabranch_schemas::topics::ClusterName;

use super::codec::MessageCodec;
use super::session::Timing;
use super::transport::{Caller, Connection, Dialler, Duplex};
use super::{RefusalCode, VERSION};
use crate::error::Error;

/// How long to wait for each step of the handshake.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long to wait for a refusal to be sent.
const REFUSE_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) type Stream = Framed<Box<dyn Duplex>, MessageCodec>;

/// Who this side is.
#[derive(Clone, Debug)]
pub(crate) struct Local {
    pub(crate) cluster: ClusterName,
    pub(crate) actor: ActorId,
    /// How far the clock of the other side may be off.
    pub(crate) max_clock_drift: Duration,
}

/// Who the other side is.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// Its cluster's name.
    pub(crate) cluster: ClusterName,
    /// The actor of its log.
    pub(crate) actor: ActorId,
    /// The app it replicates.
    pub(crate) app: AppId,
    /// Its network address.
    pub(crate) address: String,
}

/// A link that both sides agreed on.
pub(crate) struct Link {
    pub(super) stream: Stream,
    pub(crate) peer: Peer,
    /// Who dialled.
    pub(crate) initiator: ActorId,
    pub(crate) timing: Timing,
}

/// A connection whose other side has said who it is and waits for an answer.
pub(crate) struct Incoming {
    stream: Stream,
    pub(crate) peer: Peer,
}

/// Dials `address` for `app`.
pub(crate) async fn dial(
    address: &str,
    dialler: &Dialler,
    local: &Local,
    app: AppId,
) -> Result<Link, Error> {
    let Connection { stream, certified, .. } = dialler.dial(address).await?;
    let mut stream = Framed::new(stream, MessageCodec::new());
    send(&mut stream, hello(local, app), address).await?;
    let answered = receive(&mut stream, address).await;
    let peer = match answered.and_then(|hello| peer(hello, address, local, certified)) {
        Ok(peer) if peer.app != app => {
            let reason = format!("asked for app {app}, and the answer is about {}", peer.app);
            Err(Error::Refusing { code: RefusalCode::AppMismatch, reason })
        }
        other => other,
    };
    let peer = tell_refusal(&mut stream, peer).await?;
    Ok(Link { stream, peer, initiator: local.actor, timing: Timing::default() })
}

impl Incoming {
    /// Hears who dialled.
    pub(crate) async fn receive(caller: Caller, local: &Local) -> Result<Self, Error> {
        let Connection { stream, certified, address } = caller.prove().await?;
        let mut stream = Framed::new(stream, MessageCodec::new());
        let heard = receive(&mut stream, &address).await;
        let peer = heard.and_then(|hello| peer(hello, &address, local, certified));
        let peer = tell_refusal(&mut stream, peer).await?;
        Ok(Incoming { stream, peer })
    }

    /// Answers: the link stands.
    pub(crate) async fn admit(mut self, local: &Local) -> Result<Link, Error> {
        send(&mut self.stream, hello(local, self.peer.app), &self.peer.address).await?;
        let initiator = self.peer.actor;
        let timing = Timing::default();
        Ok(Link { stream: self.stream, peer: self.peer, initiator, timing })
    }

    /// Answers why not, and gives the error to log.
    pub(crate) async fn refuse(mut self, code: RefusalCode, reason: String) -> Error {
        let error = Error::Refusing { code, reason };
        refuse(&mut self.stream, &error).await;
        error
    }
}

/// The refusal to send for an error, if it is one that the other side is to be told.
pub(super) fn refusal(error: &Error) -> Option<Kind> {
    let (code, reason) = match error {
        Error::Refusing { code, reason } => (*code, reason.clone()),
        Error::Shutdown => (RefusalCode::ShuttingDown, error.to_string()),
        _ => return None,
    };
    Some(Kind::Refusal(Refusal { code: code.as_str().to_owned(), reason }))
}

async fn refuse(stream: &mut Stream, error: &Error) {
    let Some(refusal) = refusal(error) else { return };
    let told = async {
        stream.send(refusal).await?;
        stream.get_mut().shutdown().await?;
        Ok::<(), super::codec::FrameError>(())
    };
    if let Ok(Err(error)) | Err(error) =
        timeout(REFUSE_TIMEOUT, told).await.map_err(|late| std::io::Error::from(late).into())
    {
        tracing::debug!(%error, "the other side could not be told the refusal");
    }
}

/// Tells the other side if it is refused.
async fn tell_refusal<T>(stream: &mut Stream, outcome: Result<T, Error>) -> Result<T, Error> {
    if let Err(error) = &outcome {
        refuse(stream, error).await;
    }
    outcome
}

fn hello(local: &Local, app: AppId) -> Kind {
    Kind::Hello(Hello {
        version: VERSION,
        cluster: local.cluster.to_string(),
        actor: Bytes::copy_from_slice(local.actor.0.as_bytes()),
        app: Bytes::copy_from_slice(app.0.as_bytes()),
        now_ms: now_millis(),
    })
}

/// What a Hello says, if this side can talk with its sender, whose certificate names `certified`.
/// Without that check, any authority that is trusted could speak for every cluster.
fn peer(
    hello: Hello,
    address: &str,
    local: &Local,
    certified: Option<String>,
) -> Result<Peer, Error> {
    let Hello { version, cluster, actor, app, now_ms } = hello;
    if version != VERSION {
        let reason = format!(
            "version {version} of the link protocol is not spoken here, only {VERSION}: \
             run versions of anabranch that know the same one"
        );
        return Err(Error::Refusing { code: RefusalCode::Version, reason });
    }
    let cluster = cluster.parse::<ClusterName>();
    let app = Uuid::from_slice(&app)
        .map_err(|_| Error::protocol("an app id that is not 16 bytes long"))?;
    let peer = Peer {
        cluster: cluster.map_err(|_| Error::protocol("a cluster name that cannot be one"))?,
        actor: super::actor(&actor)?,
        app: AppId(app),
        address: address.to_owned(),
    };
    if certified.as_deref() != Some(peer.cluster.as_str()) {
        let certified = certified.map_or("no cluster".to_owned(), |name| format!("'{name}'"));
        let reason = format!(
            "the certificate names {certified} (its common name), and the bridge that shows it \
             says it is of cluster '{}': give it one of its own with 'anabranch ca'",
            peer.cluster
        );
        return Err(Error::Refusing { code: RefusalCode::Identity, reason });
    }
    if peer.actor == local.actor {
        let reason = "both sides are the same cluster: check the address".to_owned();
        return Err(Error::Refusing { code: RefusalCode::SameCluster, reason });
    }
    check_clocks(now_ms, now_millis(), local.max_clock_drift)?;
    Ok(peer)
}

/// Stamps of a clock that is far ahead would be refused one by one, and those of one that is far
/// behind would lose against everything: two such sides have no link.
fn check_clocks(theirs_ms: u64, ours_ms: u64, most: Duration) -> Result<(), Error> {
    let apart = Duration::from_millis(theirs_ms.abs_diff(ours_ms));
    if apart <= most {
        return Ok(());
    }
    let reason = format!(
        "the clocks of the two sides differ by {apart:?}, and {most:?} are allowed \
         (bridge.max_clock_drift_ms): it is {ours_ms} ms since 1970 at the side that refuses, and \
         {theirs_ms} ms at the other; set them right"
    );
    Err(Error::Refusing { code: RefusalCode::ClockDrift, reason })
}

async fn send(stream: &mut Stream, kind: Kind, peer: &str) -> Result<(), Error> {
    timeout(STEP_TIMEOUT, stream.send(kind))
        .await
        .map_err(|_| Error::Silent(STEP_TIMEOUT))?
        .map_err(|error| error.of_peer(peer))
}

async fn receive(stream: &mut Stream, peer: &str) -> Result<Hello, Error> {
    let next = timeout(STEP_TIMEOUT, stream.next()).await;
    match next.map_err(|_| Error::Silent(STEP_TIMEOUT))? {
        None => Err(Error::Closed),
        Some(Err(error)) => Err(error.of_peer(peer)),
        Some(Ok(Kind::Hello(hello))) => Ok(hello),
        Some(Ok(Kind::Refusal(refusal))) => Err(super::session::refused(refusal)),
        Some(Ok(_)) => Err(Error::protocol("the first message is not a hello")),
    }
}

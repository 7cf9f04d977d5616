//! Messages as protobuf, and back: what another process sent is checked here, and nonsense is
//! refused with its reason.

use std::fmt;
use std::sync::Arc;

use anabranch_core::cluster::{Epoch, MAX_PARTITIONS, MAX_REPLICAS, NodeId, NodeIdError};
use anabranch_core::ids::{ActorId, TxnId};
use anabranch_core::keyspace::Position;
use anabranch_schemas::gossip as proto;

use super::announce::{
    Ahead, Announce, Applied, AppliedError, Incarnation, NotReady, Sequence, Standing, Version,
};
use super::message::Message;

/// No cluster has more nodes.
const MAX_NODES: usize = MAX_PARTITIONS * MAX_REPLICAS;
/// Tag and length of a field that is a message: two bytes of length reach to 16 KiB.
const FIELD_BYTES: usize = 3;

/// Tells the nodes of one cluster from those of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClusterMark(u32);

impl ClusterMark {
    /// Of the cluster that is this actor.
    pub(crate) fn of(actor: ActorId) -> Self {
        let [first, second, third, fourth, ..] = *actor.0.as_bytes();
        ClusterMark(u32::from_be_bytes([first, second, third, fourth]))
    }
}

impl fmt::Display for ClusterMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// Why a message is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WireError {
    #[error("gossip of another cluster: check the addresses of the nodes")]
    Cluster,
    #[error("gossip has '{name}' for the name of a node: {source}")]
    Node { name: String, source: NodeIdError },
    #[error("gossip of more nodes than a cluster can have")]
    TooMany,
    #[error("gossip about node '{0}' has a version without a sequence")]
    Version(NodeId),
    #[error("gossip about node '{0}' has it started at a time that no clock shows")]
    Incarnation(NodeId),
    #[error("gossip about node '{node}' does not say what it has applied: {source}")]
    Applied { node: NodeId, source: AppliedError },
    #[error("gossip about node '{0}' has a range with a start and no end")]
    Range(NodeId),
}

/// A message as it is sent.
pub(super) fn encode(message: &Message, mark: ClusterMark) -> proto::Message {
    let Message { from, announces, digest } = message;
    let known = |(node, version): &(NodeId, Version)| proto::Known {
        node: node.to_string(),
        incarnation: version.incarnation.0,
        sequence: version.sequence.0,
    };
    proto::Message {
        from: from.to_string(),
        cluster: mark.0,
        announces: announces.iter().map(|announce| encode_announce(announce)).collect(),
        digest: digest.iter().map(known).collect(),
    }
}

fn encode_announce(announce: &Announce) -> proto::Announce {
    let Announce { node, version: Version { incarnation, sequence }, standing } = announce;
    let Standing {
        epoch,
        applied,
        durable,
        gc_timestamp,
        history_from,
        copying,
        not_ready,
        is_whole,
    } = standing;
    proto::Announce {
        node: node.to_string(),
        incarnation: incarnation.0,
        sequence: sequence.0,
        epoch: epoch.0,
        base: applied.base().0,
        ahead: applied.ahead().iter().map(encode_ahead).collect(),
        is_cut: applied.is_cut(),
        durable: durable.0,
        gc_timestamp: gc_timestamp.0,
        history_from: history_from.0,
        copying: *copying,
        is_whole: *is_whole,
        not_ready: not_ready.as_ref().map(|not_ready| not_ready.as_str().to_owned()),
    }
}

fn encode_ahead(Ahead { first, last, base, detached }: &Ahead) -> proto::Ahead {
    proto::Ahead {
        first: first.0,
        last: last.0,
        base: base.0,
        detached: detached.iter().flat_map(|range| [range.start.0, range.end.0]).collect(),
    }
}

/// How much longer an announce makes a message, at most.
pub(super) fn announce_bytes(announce: &Announce) -> usize {
    FIELD_BYTES + proto::encoded_bytes(&encode_announce(announce))
}

/// How much longer what is known of a node makes a digest, at most.
pub(super) fn known_bytes(node: &NodeId) -> usize {
    // Two numbers of up to 10 bytes.
    FIELD_BYTES + 2 + node.as_str().len() + 2 * (1 + 10)
}

/// How long a message is.
pub(super) fn message_bytes(message: &Message) -> usize {
    // Every mark is as long as another, unless it is left out for being 0.
    proto::encoded_bytes(&encode(message, ClusterMark(1)))
}

/// A message that was received.
///
/// # Errors
/// If it makes no sense, or is of another cluster.
pub(super) fn decode(message: proto::Message, mark: ClusterMark) -> Result<Message, WireError> {
    let proto::Message { from, cluster, announces, digest } = message;
    if ClusterMark(cluster) != mark {
        return Err(WireError::Cluster);
    }
    if announces.len() > MAX_NODES || digest.len() > MAX_NODES {
        return Err(WireError::TooMany);
    }
    Ok(Message {
        from: node(from)?,
        announces: announces
            .into_iter()
            .map(|announce| decode_announce(announce).map(Arc::new))
            .collect::<Result<_, _>>()?,
        digest: digest
            .into_iter()
            .map(|proto::Known { node: name, incarnation, sequence }| {
                let (incarnation, sequence) = (Incarnation(incarnation), Sequence(sequence));
                Ok((node(name)?, Version { incarnation, sequence }))
            })
            .collect::<Result<_, _>>()?,
    })
}

fn node(name: String) -> Result<NodeId, WireError> {
    name.parse().map_err(|source| WireError::Node { name, source })
}

fn decode_announce(announce: proto::Announce) -> Result<Announce, WireError> {
    let proto::Announce {
        node: name,
        incarnation,
        sequence,
        epoch,
        base,
        ahead,
        is_cut,
        durable,
        gc_timestamp,
        history_from,
        copying,
        not_ready,
        is_whole,
    } = announce;
    let node = node(name)?;
    if sequence == 0 {
        return Err(WireError::Version(node));
    }
    let incarnation = Incarnation(incarnation);
    if incarnation > Incarnation::MAX {
        return Err(WireError::Incarnation(node));
    }
    let ahead = ahead
        .into_iter()
        .map(|ahead| decode_ahead(ahead).ok_or_else(|| WireError::Range(node.clone())))
        .collect::<Result<_, _>>()?;
    let applied = Applied::from_parts(TxnId(base), ahead, is_cut)
        .map_err(|source| WireError::Applied { node: node.clone(), source })?;
    let version = Version { incarnation, sequence: Sequence(sequence) };
    let standing = Standing {
        epoch: Epoch(epoch),
        applied,
        durable: TxnId(durable),
        gc_timestamp: TxnId(gc_timestamp),
        history_from: TxnId(history_from),
        copying,
        not_ready: not_ready.map(NotReady::new),
        is_whole,
    };
    Ok(Announce { node, version, standing })
}

fn decode_ahead(ahead: proto::Ahead) -> Option<Ahead> {
    let proto::Ahead { first, last, base, detached } = ahead;
    let (pairs, rest) = detached.as_chunks::<2>();
    let detached = pairs.iter().map(|[start, end]| TxnId(*start)..TxnId(*end)).collect();
    let (first, last, base) = (Position(first), Position(last), TxnId(base));
    rest.is_empty().then_some(Ahead { first, last, base, detached })
}

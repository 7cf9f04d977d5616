//! librdkafka's errors as ours. What decides is what the caller must do.

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use super::Trouble;
use crate::error::Error;
use crate::log::Offset;

/// A client could not be made: its properties are wrong.
pub(super) fn creation(error: &KafkaError) -> Error {
    match error {
        KafkaError::ClientConfig(_, reason, name, value) => {
            Error::Invalid(format!("kafka.{name}={value} is refused: {reason}"))
        }
        other => Error::Invalid(format!("the kafka client cannot be made: {other}")),
    }
}

/// The code in any of librdkafka's errors.
pub(super) fn code(error: &KafkaError) -> Option<Code> {
    match error {
        KafkaError::AdminOp(code) => Some(*code),
        other => other.rdkafka_error_code(),
    }
}

/// An error outside a transaction, or one whose transaction is not yet committed: nothing happened.
pub(super) fn plain(what: &str, error: &KafkaError, trouble: &Trouble) -> Error {
    from_code(what, code(error), &error.to_string(), trouble)
}

/// The same, for an error that is only a code.
pub(super) fn from_code(what: &str, code: Option<Code>, text: &str, trouble: &Trouble) -> Error {
    match code {
        Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition) => {
            Error::UnknownTopic(what.to_owned())
        }
        Some(
            Code::TopicAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::InvalidTopic
            | Code::InvalidConfig
            | Code::InvalidPartitions
            | Code::InvalidReplicationFactor
            | Code::InvalidTransactionTimeout
            | Code::PolicyViolation
            | Code::InvalidArgument
            | Code::OffsetOutOfRange
            | Code::MessageSizeTooLarge
            | Code::UnsupportedVersion
            | Code::UnsupportedFeature,
        ) => Error::Invalid(format!("{what}: {text}")),
        _ => {
            let trouble = trouble.last().map_or(String::new(), |last| format!(" (lately: {last})"));
            Error::Unavailable(format!("{what}: {text}{trouble}"))
        }
    }
}

/// Whether the code says that a newer producer of the same transactional id exists, or that the
/// coordinator aborted the transaction after its timeout: Kafka answers both alike.
pub(super) fn is_fenced(code: Code) -> bool {
    matches!(code, Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch)
}

/// An offset that Kafka gave.
pub(super) fn offset(offset: i64) -> Result<Offset, Error> {
    u64::try_from(offset)
        .map(Offset)
        .map_err(|_| Error::Corrupt(format!("the broker gave the offset {offset}")))
}

/// An offset for Kafka.
pub(super) fn signed(offset: u64) -> Result<i64, Error> {
    i64::try_from(offset).map_err(|_| Error::Invalid(format!("{offset} is not an offset")))
}

/// Whether a partition has no leader, or the client does not know the new one yet.
pub(super) fn lacks_leader(error: &KafkaError) -> bool {
    matches!(code(error), Some(Code::NotLeaderForPartition | Code::LeaderNotAvailable))
}

/// Whether a broker said it. What librdkafka says itself is that it has no answer.
pub(super) fn is_an_answer(error: &KafkaError) -> bool {
    // librdkafka's own codes are below -1.
    code(error).is_some_and(|code| code as i32 >= -1)
}

/// Whether records were there that librdkafka could not make sense of: it passes them over.
pub(super) fn is_damage(code: Code) -> bool {
    matches!(code, Code::BadMessage | Code::BadCompression | Code::NotImplemented)
}

//! Frames: four bytes of length, then one message. How large a frame may be depends on whether the
//! other side has said who it is.

use bytes::{BufMut, BytesMut};
use prost::Message as _;
use tokio_util::codec::{Decoder, Encoder, LengthDelimitedCodec};

use anabranch_schemas::link::{Message, message::Kind};

use super::RefusalCode;
use crate::error::Error;

/// Why a frame cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error("a frame is larger than {0} bytes")]
    TooLarge(usize),
    #[error("a message cannot be read: {0}")]
    Broken(String),
}

impl FrameError {
    /// As an error of the link with `peer`.
    pub(crate) fn of_peer(self, peer: &str) -> Error {
        match self {
            FrameError::Io(source) => super::explain(source, "talk with", peer),
            FrameError::TooLarge(_) => {
                Error::Refusing { code: RefusalCode::TooLarge, reason: self.to_string() }
            }
            FrameError::Broken(_) => Error::protocol(self.to_string()),
        }
    }
}

/// The largest frame before the handshake is done.
pub(crate) const MAX_HELLO_BYTES: usize = 16 * 1024;
/// The largest frame after it. A sender makes none above half of it, except for one document.
pub(crate) const MAX_FRAME_BYTES: usize = 64 * 1024 * 1024;

const LENGTH_BYTES: usize = 4;

/// Reads and writes messages.
#[derive(Debug)]
pub(crate) struct MessageCodec(LengthDelimitedCodec);

impl MessageCodec {
    /// For the handshake.
    pub(crate) fn new() -> Self {
        let mut frames = LengthDelimitedCodec::builder();
        frames.length_field_length(LENGTH_BYTES).max_frame_length(MAX_HELLO_BYTES);
        MessageCodec(frames.new_codec())
    }

    /// After the handshake.
    pub(crate) fn allow_large_frames(&mut self) {
        self.0.set_max_frame_length(MAX_FRAME_BYTES);
    }
}

impl Decoder for MessageCodec {
    type Item = Kind;
    type Error = FrameError;

    fn decode(&mut self, bytes: &mut BytesMut) -> Result<Option<Kind>, FrameError> {
        let limit = self.0.max_frame_length();
        // The codec's own error is only ever that a frame is too large.
        let frame = self.0.decode(bytes).map_err(|_| FrameError::TooLarge(limit))?;
        let Some(frame) = frame else { return Ok(None) };
        let message = Message::decode(frame.freeze())
            .map_err(|error| FrameError::Broken(error.to_string()))?;
        let unknown = || FrameError::Broken("its kind is not known".to_owned());
        message.kind.map(Some).ok_or_else(unknown)
    }
}

impl Encoder<Kind> for MessageCodec {
    type Error = FrameError;

    fn encode(&mut self, kind: Kind, bytes: &mut BytesMut) -> Result<(), FrameError> {
        let message = Message { kind: Some(kind) };
        let length = message.encoded_len();
        if length > MAX_FRAME_BYTES {
            return Err(FrameError::TooLarge(MAX_FRAME_BYTES));
        }
        bytes.reserve(LENGTH_BYTES + length);
        bytes.put_u32(u32::try_from(length).expect("below the limit"));
        message.encode(bytes).expect("the buffer grows");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anabranch_schemas::link::{Batch, Ping};
    use bytes::Bytes;

    fn batch(bytes: usize) -> Kind {
        let change = anabranch_schemas::link::Change {
            document_id: Bytes::from_static(b"id"),
            state: vec![7; bytes].into(),
            left: false,
        };
        let round = anabranch_schemas::link::Round { changes: vec![change], ..Default::default() };
        Kind::Batch(Batch { rounds: vec![round], ..Default::default() })
    }

    #[test]
    fn messages_come_back_however_they_are_cut() {
        let mut codec = MessageCodec::new();
        let sent = [Kind::Ping(Ping { now_ms: 9 }), batch(100)];
        let mut bytes = BytesMut::new();
        for kind in sent.clone() {
            codec.encode(kind, &mut bytes).unwrap();
        }
        let mut received = Vec::new();
        let mut part = BytesMut::new();
        for byte in bytes {
            part.put_u8(byte);
            received.extend(codec.decode(&mut part).unwrap());
        }
        assert_eq!(received, sent);
    }

    #[test]
    fn a_stranger_cannot_send_large_frames() {
        let mut codec = MessageCodec::new();
        let mut bytes = BytesMut::new();
        codec.encode(batch(MAX_HELLO_BYTES), &mut bytes).unwrap();
        let error = codec.decode(&mut bytes.clone()).unwrap_err();
        assert!(matches!(error, FrameError::TooLarge(MAX_HELLO_BYTES)), "{error}");
        codec.allow_large_frames();
        assert!(codec.decode(&mut bytes).unwrap().is_some());
    }

    #[test]
    fn garbage_breaks_the_protocol() {
        for body in [&[0xff_u8, 0xff][..], &[]] {
            let mut bytes = BytesMut::new();
            bytes.put_u32(u32::try_from(body.len()).unwrap());
            bytes.put_slice(body);
            let error = MessageCodec::new().decode(&mut bytes).unwrap_err();
            assert!(matches!(error, FrameError::Broken(_)), "{error}");
        }
    }
}

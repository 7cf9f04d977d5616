//! The keyspace: positions, and the K equal slices it is cut into.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

/// A point of the keyspace: the `xxh3_64` of a canonical document id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Position(pub u64);

impl Position {
    /// Of the document with these canonical id bytes.
    pub fn of(document_id: &[u8]) -> Self {
        Position(xxh3_64(document_id))
    }
}

/// One of the K equal parts of the keyspace; also the partition of every sliced topic.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Slice(pub u16);

/// K: a power of two from 1 to 4096, fixed when a cluster is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct SliceCount(u16);

/// A count of slices that is not a power of two from 1 to 4096.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the number of slices must be a power of two from 1 to 4096, not {0}")]
pub struct SliceCountError(u16);

impl SliceCount {
    /// The number of slices.
    pub fn get(self) -> u16 {
        self.0
    }

    /// The slice that holds `position`.
    pub fn slice_of(self, position: Position) -> Slice {
        let bits = self.0.trailing_zeros();
        // A shift by 64 is not defined; with one slice everything is in slice 0.
        let index = if bits == 0 { 0 } else { position.0 >> (64 - bits) };
        Slice(u16::try_from(index).expect("at most 12 bits are left"))
    }

    /// Every slice, in order.
    pub fn all(self) -> impl Iterator<Item = Slice> {
        (0..self.0).map(Slice)
    }
}

impl Default for SliceCount {
    fn default() -> Self {
        SliceCount(16)
    }
}

impl TryFrom<u16> for SliceCount {
    type Error = SliceCountError;

    fn try_from(count: u16) -> Result<Self, SliceCountError> {
        if count.is_power_of_two() && count <= 4096 {
            Ok(SliceCount(count))
        } else {
            Err(SliceCountError(count))
        }
    }
}

impl From<SliceCount> for u16 {
    fn from(count: SliceCount) -> u16 {
        count.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_equal_parts() {
        let k = SliceCount::try_from(16).unwrap();
        assert_eq!(k.slice_of(Position(0)), Slice(0));
        assert_eq!(k.slice_of(Position((1 << 60) - 1)), Slice(0));
        assert_eq!(k.slice_of(Position(1 << 60)), Slice(1));
        assert_eq!(k.slice_of(Position(u64::MAX)), Slice(15));
        assert_eq!(SliceCount::try_from(1).unwrap().slice_of(Position(u64::MAX)), Slice(0));
    }

    #[test]
    fn counts_are_powers_of_two() {
        for count in [0, 3, 17, 8192] {
            assert!(SliceCount::try_from(count).is_err());
        }
    }
}

//! Avro single-object encoding: two marker bytes, the schema's fingerprint, the datum. The
//! fingerprint says which record and which version of it follows.

use std::fmt;
use std::marker::PhantomData;
use std::sync::LazyLock;

use apache_avro::Schema;
use apache_avro::rabin::Rabin;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::writer::datum::GenericDatumWriter;
use bytes::Bytes;
use serde::de::{DeserializeOwned, Error as _, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use anabranch_core::ErrorKind;
use anabranch_core::hlc::Hlc;
use anabranch_core::ids::{ActorId, AppId, RoundId, TxnId};

const MARKER: [u8; 2] = [0xc3, 0x01];
const HEADER_BYTES: usize = 10;

/// Bytes that are not the record they should be.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// No single-object header, or too short.
    #[error("{0} bytes are not a record: the header is missing")]
    NoHeader(usize),
    /// Another record, or a version this program does not know.
    #[error("not a {wanted} of a known version: schema fingerprint {found}")]
    UnknownSchema {
        /// What was to be read.
        wanted: &'static str,
        /// The fingerprint found, in hexadecimal.
        found: String,
    },
    /// The datum does not fit its schema, or holds a value that makes no sense.
    #[error("broken {record}: {reason}")]
    Broken {
        /// What was to be read.
        record: &'static str,
        /// What is wrong.
        reason: String,
    },
}

impl RecordError {
    /// Always [`ErrorKind::Corrupt`].
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Corrupt
    }
}

/// A record of a topic.
pub trait Record: Sized + DeserializeOwned + 'static {
    /// Its schema; only the newest version is written.
    fn codec() -> &'static Codec<Self>;

    /// Appends what follows the header.
    fn write_datum(&self, to: &mut Vec<u8>);
}

/// How a record is written and read.
pub struct Codec<R> {
    name: &'static str,
    header: [u8; HEADER_BYTES],
    writer: GenericDatumWriter<'static>,
    /// Of every version, the newest first.
    versions: Vec<Version>,
    record: PhantomData<fn() -> R>,
}

/// How one version of a record is known and read. Fields that it does not have get the default that
/// serde gives them.
struct Version {
    header: [u8; HEADER_BYTES],
    reader: GenericDatumReader<'static>,
}

impl Version {
    fn new(schema: &'static Schema) -> Self {
        let fingerprint = schema.fingerprint::<Rabin>();
        let mut header = [0; HEADER_BYTES];
        header[..2].copy_from_slice(&MARKER);
        header[2..].copy_from_slice(&fingerprint.bytes);
        let reader = GenericDatumReader::builder(schema).human_readable(false).build();
        Version { header, reader: reader.expect("a schema of this crate resolves") }
    }
}

impl<R> Codec<R> {
    /// Of a record that had these schemas, of which the newest is written.
    pub(crate) fn new(
        name: &'static str,
        schema: &'static LazyLock<Schema>,
        older: &[&'static LazyLock<Schema>],
    ) -> Self {
        let newest = Version::new(schema);
        let writer = GenericDatumWriter::builder(schema).human_readable(false).build();
        let header = newest.header;
        let older = older.iter().map(|schema| Version::new(schema));
        Codec {
            name,
            header,
            writer: writer.expect("a schema of this crate resolves"),
            versions: [newest].into_iter().chain(older).collect(),
            record: PhantomData,
        }
    }

    pub(crate) fn broken(&self, reason: impl fmt::Display) -> RecordError {
        RecordError::Broken { record: self.name, reason: reason.to_string() }
    }

    /// The version that bytes with this header have.
    fn version(&self, header: &[u8]) -> Option<&Version> {
        self.versions.iter().find(|version| version.header == header)
    }
}

#[cfg(test)]
impl<R> Codec<R> {
    /// A record as the library writes it, given as it stands in a topic.
    pub(crate) fn rewritten(&self, bytes: &[u8]) -> Vec<u8> {
        let (header, mut datum) = bytes.split_at(HEADER_BYTES);
        let value = self.versions[0].reader.read_value(&mut datum).expect("the library reads it");
        assert!(datum.is_empty(), "bytes are left over");
        let datum = self.writer.write_value_to_vec(value).expect("the library writes it");
        [header, &datum].concat()
    }
}

impl<R: Serialize> Codec<R> {
    pub(crate) fn write_datum(&self, record: &R, to: &mut Vec<u8>) {
        self.writer.write_ser(to, record).expect("a typed record fits its schema");
    }
}

/// Whether `bytes` hold a record of this type, going by its header.
pub(crate) fn is<R: Record>(bytes: &[u8]) -> bool {
    bytes.get(..HEADER_BYTES).is_some_and(|header| R::codec().version(header).is_some())
}

/// The bytes of a record.
pub fn encode<R: Record>(record: &R) -> Bytes {
    let mut bytes = Vec::with_capacity(256);
    put_header::<R>(&mut bytes);
    record.write_datum(&mut bytes);
    bytes.into()
}

/// Appends the header of a record `R`.
pub(crate) fn put_header<R: Record>(to: &mut Vec<u8>) {
    to.extend_from_slice(&R::codec().header);
}

/// The record that `bytes` hold.
pub fn decode<R: Record>(bytes: &[u8]) -> Result<R, RecordError> {
    let codec = R::codec();
    let Some((header, mut datum)) = bytes.split_at_checked(HEADER_BYTES) else {
        return Err(RecordError::NoHeader(bytes.len()));
    };
    if header[..2] != MARKER {
        return Err(RecordError::NoHeader(bytes.len()));
    }
    let Some(version) = codec.version(header) else {
        let found = header[2..].iter().map(|byte| format!("{byte:02x}")).collect();
        return Err(RecordError::UnknownSchema { wanted: codec.name, found });
    };
    let record = version.reader.read_deser(&mut datum).map_err(|error| codec.broken(error))?;
    if datum.is_empty() { Ok(record) } else { Err(codec.broken("bytes are left over")) }
}

/// The schema in a file of `avro/`, parsed once.
macro_rules! schema {
    ($file:literal) => {{
        use std::sync::LazyLock;
        static SCHEMA: LazyLock<apache_avro::Schema> = LazyLock::new(|| {
            apache_avro::Schema::parse_str(include_str!(concat!("../avro/", $file)))
                .expect("a schema of this crate parses")
        });
        &SCHEMA
    }};
}
pub(crate) use schema;

/// Gives a record its schema and those it had before, and says how it is written if not by the
/// library.
macro_rules! record {
    ($record:ty, $name:literal, $file:literal $(, was $old:literal)*) => {
        $crate::avro::record!($record, $name, $file $(, was $old)*, |record, to| {
            <$record as $crate::avro::Record>::codec().write_datum(record, to);
        });
    };
    (
        $record:ty, $name:literal, $file:literal $(, was $old:literal)*,
        |$this:ident, $to:ident| $write:expr
    ) => {
        impl $crate::avro::Record for $record {
            fn codec() -> &'static $crate::avro::Codec<Self> {
                use std::sync::LazyLock;
                static CODEC: LazyLock<$crate::avro::Codec<$record>> = LazyLock::new(|| {
                    let older: &[_] = &[$($crate::avro::schema!($old)),*];
                    $crate::avro::Codec::new($name, $crate::avro::schema!($file), older)
                });
                &CODEC
            }

            fn write_datum(&self, $to: &mut Vec<u8>) {
                let $this = self;
                $write
            }
        }
    };
}
pub(crate) use record;

/// What Avro holds as a `long`.
pub(crate) trait Long: Copy {
    fn to_long(self) -> u64;
    fn from_long(value: u64) -> Self;
}

impl Long for u64 {
    fn to_long(self) -> u64 {
        self
    }
    fn from_long(value: u64) -> Self {
        value
    }
}

impl Long for TxnId {
    fn to_long(self) -> u64 {
        self.0
    }
    fn from_long(value: u64) -> Self {
        TxnId(value)
    }
}

impl Long for Hlc {
    fn to_long(self) -> u64 {
        self.0
    }
    fn from_long(value: u64) -> Self {
        Hlc(value)
    }
}

/// `long` of a `u64`, bit for bit: Avro has no unsigned type.
pub(crate) mod long {
    use super::*;

    pub(crate) fn serialize<T: Long, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_i64(value.to_long().cast_signed())
    }

    pub(crate) fn deserialize<'de, T: Long, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
        i64::deserialize(from).map(|value| T::from_long(value.cast_unsigned()))
    }
}

/// `["null", "long"]`.
pub(crate) mod optional_long {
    use super::*;

    pub(crate) fn serialize<T: Long, S: Serializer>(
        value: &Option<T>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        value.map(|value| value.to_long().cast_signed()).serialize(to)
    }

    pub(crate) fn deserialize<'de, T: Long, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<T>, D::Error> {
        let value = Option::<i64>::deserialize(from)?;
        Ok(value.map(|value| T::from_long(value.cast_unsigned())))
    }
}

/// What Avro holds as a `fixed` of 16 bytes.
pub(crate) trait Fixed: Copy {
    fn to_uuid(self) -> Uuid;
    fn from_uuid(uuid: Uuid) -> Self;
}

macro_rules! fixed {
    ($($id:ident),*) => {$(
        impl Fixed for $id {
            fn to_uuid(self) -> Uuid {
                self.0
            }
            fn from_uuid(uuid: Uuid) -> Self {
                $id(uuid)
            }
        }
    )*};
}
fixed!(RoundId, AppId, ActorId);

/// `fixed` of a UUID's 16 bytes.
pub(crate) mod uuid_bytes {
    use super::*;

    pub(crate) fn serialize<T: Fixed, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(value.to_uuid().as_bytes())
    }

    pub(crate) fn deserialize<'de, T: Fixed, D: Deserializer<'de>>(from: D) -> Result<T, D::Error> {
        struct BytesVisitor;

        impl Visitor<'_> for BytesVisitor {
            type Value = Uuid;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("16 bytes")
            }
            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Uuid, E> {
                Uuid::from_slice(bytes).map_err(E::custom)
            }
        }

        from.deserialize_bytes(BytesVisitor).map(T::from_uuid).map_err(D::Error::custom)
    }
}

//! What a receiver says it holds in one range of document ids, for a snapshot of that range. Pure.

use std::collections::HashMap;

use bytes::Bytes;

use anabranch_core::document::{Document, VersionVector};
use anabranch_core::ids::TxnId;
use anabranch_schemas::{link, state};

use super::position::At;
use crate::error::Error;
use crate::link::{MAX_HOLDINGS, MAX_HOLDINGS_BYTES, MAX_VERSIONS_BYTES};

/// A range of document ids, and what the receiver holds there.
#[derive(Debug)]
pub(crate) struct Listed {
    after: Bytes,
    through: Option<Bytes>,
    versions: HashMap<Bytes, VersionVector>,
}

impl Listed {
    /// Reads what a receiver said.
    pub(crate) fn from_wire(holdings: link::Holdings) -> Result<Self, Error> {
        let link::Holdings { after, through, documents } = holdings;
        if documents.len() > MAX_HOLDINGS {
            return Err(Error::protocol(format!("more than {MAX_HOLDINGS} documents are listed")));
        }
        let bytes = |held: &link::Holding| held.document_id.len() + held.versions.len();
        if documents.iter().map(bytes).sum::<usize>() > MAX_HOLDINGS_BYTES {
            let reason = format!("what is listed has more than {MAX_HOLDINGS_BYTES} bytes");
            return Err(Error::protocol(reason));
        }
        if through.as_ref().is_some_and(|through| *through <= after) {
            return Err(Error::protocol("a range of document ids that ends before it begins"));
        }
        let versions = documents.into_iter().map(|link::Holding { document_id, versions }| {
            Ok((document_id, read_versions(&versions)?))
        });
        Ok(Listed { after, through, versions: versions.collect::<Result<_, Error>>()? })
    }

    /// Whether a snapshot that has come to `after` can go on with this.
    pub(crate) fn goes_on_from(&self, after: &Bytes) -> bool {
        self.after <= *after && self.through.as_ref().is_none_or(|through| after < through)
    }

    /// Whether the range does not end before this document id.
    pub(crate) fn includes(&self, document_id: &[u8]) -> bool {
        self.through.as_ref().is_none_or(|through| document_id <= &through[..])
    }

    /// Which versions of a document the receiver holds, if it said so.
    pub(crate) fn held(&self, document_id: &[u8]) -> Option<&VersionVector> {
        self.versions.get(document_id)
    }

    /// Where the receiver is once it has been sent the whole range; the tail begins at `next`.
    pub(crate) fn end(&self, next: TxnId) -> At {
        match self.through.clone() {
            Some(after) => At::Snapshot { next, after },
            None => At::Replay(next),
        }
    }
}

/// Reads versions: a state without anything else, and a short one, since decoding a crafted state
/// takes many times its bytes.
fn read_versions(bytes: &[u8]) -> Result<VersionVector, Error> {
    if bytes.len() > MAX_VERSIONS_BYTES {
        let reason = format!("versions that are held have more than {MAX_VERSIONS_BYTES} bytes");
        return Err(Error::protocol(reason));
    }
    let document = state::decode(bytes)
        .map_err(|error| Error::protocol(format!("versions that are held: {error}")))?;
    match document {
        Document { versions, updated: None, deleted: None, generation: None, fields }
            if fields.is_empty() =>
        {
            Ok(versions)
        }
        _ => Err(Error::protocol("versions that are held come with more of a state")),
    }
}

#[cfg(test)]
mod tests {
    use anabranch_core::Value;
    use anabranch_core::document::{Commit, Mutation};
    use anabranch_core::hlc::Hlc;
    use anabranch_core::ids::ActorId;
    use anabranch_core::query::OnConflict;
    use uuid::Uuid;

    use super::*;
    use crate::link::versions_bytes;

    #[test]
    fn a_range_goes_on_from_where_the_snapshot_is() {
        let listed = |after: &'static str, through: Option<&'static str>| {
            let through = through.map(|through| Bytes::from_static(through.as_bytes()));
            let after = Bytes::from_static(after.as_bytes());
            Listed::from_wire(link::Holdings { after, through, documents: vec![] })
        };
        let at = |after: &'static str| Bytes::from_static(after.as_bytes());
        let middle = listed("b", Some("d")).unwrap();
        let goes_on = ["a", "b", "c", "d", "e"].map(|after| middle.goes_on_from(&at(after)));
        assert_eq!(goes_on, [false, true, true, false, false]);
        assert!(middle.includes(b"d") && !middle.includes(b"e"));
        assert_eq!(middle.end(TxnId(7)), At::Snapshot { next: TxnId(7), after: at("d") });
        let last = listed("b", None).unwrap();
        assert!(last.goes_on_from(&at("z")) && last.includes(b"z"));
        assert_eq!(last.end(TxnId(7)), At::Replay(TxnId(7)));
        // A range that does not get on would be sent for ever.
        assert!(listed("b", Some("b")).is_err());
    }

    #[test]
    fn what_makes_no_sense_or_is_too_much_breaks_the_protocol() {
        let listed = |versions: &Bytes, count| {
            let holding = |number: usize| link::Holding {
                document_id: number.to_string().into(),
                versions: versions.clone(),
            };
            let documents = (0..count).map(holding).collect();
            Listed::from_wire(link::Holdings { documents, ..link::Holdings::default() })
        };
        let of = |actors: u128| {
            let actors = (0..actors).map(|actor| (ActorId(Uuid::from_u128(actor)), u64::MAX));
            versions_bytes(&actors.collect())
        };
        let (few, large, huge) = (of(1), of(400), of(600));
        assert!(large.len() > MAX_VERSIONS_BYTES / 2 && huge.len() > MAX_VERSIONS_BYTES);
        let most = MAX_HOLDINGS_BYTES / (large.len() + 3);
        assert!(most < MAX_HOLDINGS);
        assert!(listed(&few, MAX_HOLDINGS).is_ok() && listed(&large, most).is_ok());
        let mut whole = Document::default();
        let at = Commit { hlc: Hlc(1), actor: ActorId(Uuid::nil()), sequence: 1 };
        let fields = Value::from_json(br#"{"a":1}"#).unwrap();
        whole.apply(&Mutation::Insert { fields, on_conflict: OnConflict::DoUpdate }, at);
        let whole = state::encode(&whole);
        let broken = [
            (Bytes::from_static(b"\x09"), 1, "unknown version"),
            (whole, 1, "more of a state"),
            (huge, 1, "versions that are held have more than"),
            (few, MAX_HOLDINGS + 1, "documents are listed"),
            (large, most + 2, "what is listed has more than"),
        ];
        for (versions, count, reason) in broken {
            let error = listed(&versions, count).unwrap_err();
            assert!(matches!(error, Error::Refusing { .. }), "{error}");
            assert!(error.to_string().contains(reason), "{error}");
        }
    }
}

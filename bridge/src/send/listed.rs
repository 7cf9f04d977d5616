//! What a receiver says it holds in one range of document ids, for a snapshot of that range. Pure.

use std::collections::HashMap;

use bytes::Bytes;

use anabranch_core::document::VersionVector;
use anabranch_core::ids::TxnId;
use anabranch_schemas::{link, state};

use super::position::At;
use crate::error::Error;
use crate::link::MAX_HOLDINGS;

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
        if through.as_ref().is_some_and(|through| *through <= after) {
            return Err(Error::protocol("a range of document ids that ends before it begins"));
        }
        let versions = documents.into_iter().map(|link::Holding { document_id, versions }| {
            let document = state::decode(&versions)
                .map_err(|error| Error::protocol(format!("versions that are held: {error}")))?;
            Ok((document_id, document.versions))
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
            None => At::Tail(next),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(last.end(TxnId(7)), At::Tail(TxnId(7)));
        // A range that does not get on would be sent for ever.
        assert!(listed("b", Some("b")).is_err());
    }

    #[test]
    fn what_makes_no_sense_or_is_too_much_breaks_the_protocol() {
        let holding = |versions: &'static [u8]| link::Holding {
            document_id: Bytes::new(),
            versions: Bytes::from_static(versions),
        };
        let empty = state::encode(&anabranch_core::document::Document::default());
        let many = vec![link::Holding { versions: empty, ..holding(b"") }; MAX_HOLDINGS + 1];
        for documents in [vec![holding(b"\x09")], many] {
            let holdings = link::Holdings { documents, ..link::Holdings::default() };
            let error = Listed::from_wire(holdings).unwrap_err();
            assert!(matches!(error, Error::Refusing { .. }), "{error}");
        }
    }
}

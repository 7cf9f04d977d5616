//! What a receiver wants: conditions by collection. Both sides read them: the sender to choose what
//! it sends (BR-3), the receiver to know whether another of its replications wants a document that
//! left this one.

use std::collections::BTreeMap;

use xxhash_rust::xxh3::Xxh3;

use anabranch_core::Value;
use anabranch_core::ids::Collection;
use anabranch_core::query::{Predicate, parse_filter};
use anabranch_schemas::link::CollectionQueries;

use crate::error::Error;
use crate::link::RefusalCode;

/// The most conditions of one subscription.
const MAX_PREDICATES: usize = 100_000;
/// And the most bytes that they may have together.
const MAX_PREDICATE_BYTES: usize = 8 * 1024 * 1024;

/// Conditions by collection. A document is wanted if one of its collection's holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Queries {
    by_collection: BTreeMap<Collection, Vec<Predicate>>,
    /// The conditions as they were declared, for the other side and for the digest.
    texts: BTreeMap<Collection, Vec<String>>,
}

impl Queries {
    /// Reads conditions.
    pub(crate) fn parse(texts: &BTreeMap<Collection, Vec<String>>) -> Result<Self, Error> {
        let mut queries = Queries { texts: texts.clone(), ..Queries::default() };
        for (collection, texts) in texts {
            let parsed = texts.iter().map(|text| {
                parse_filter(text).map_err(|error| Error::Refusing {
                    code: RefusalCode::InvalidQuery,
                    reason: format!("a query of collection '{collection}' cannot be read: {error}"),
                })
            });
            queries.by_collection.insert(collection.clone(), parsed.collect::<Result<_, _>>()?);
        }
        Ok(queries)
    }

    /// Reads what the other side wants. Of many conditions this takes its time.
    pub(crate) fn from_wire(wire: Vec<CollectionQueries>) -> Result<Self, Error> {
        let all = || wire.iter().flat_map(|queries| &queries.predicates);
        if all().count() > MAX_PREDICATES
            || all().map(String::len).sum::<usize>() > MAX_PREDICATE_BYTES
        {
            return Err(Error::Refusing {
                code: RefusalCode::InvalidQuery,
                reason: format!(
                    "more than {MAX_PREDICATES} conditions, or {MAX_PREDICATE_BYTES} bytes of \
                     them: ask for whole collections, or for less"
                ),
            });
        }
        let mut texts: BTreeMap<Collection, Vec<String>> = BTreeMap::new();
        for CollectionQueries { collection, predicates } in wire {
            let collection = collection.parse().map_err(|error| Error::Refusing {
                code: RefusalCode::InvalidQuery,
                reason: format!("{error}"),
            })?;
            texts.entry(collection).or_default().extend(predicates);
        }
        Queries::parse(&texts)
    }

    /// As the other side is told.
    pub(crate) fn to_wire(&self) -> Vec<CollectionQueries> {
        let queries = self.texts.iter().map(|(collection, texts)| CollectionQueries {
            collection: collection.to_string(),
            predicates: texts.clone(),
        });
        queries.collect()
    }

    /// A digest: a position holds for the queries it was reached with, and for no others.
    pub(crate) fn digest(&self) -> u64 {
        let mut digest = Xxh3::new();
        let mut add = |text: &str| {
            digest.update(&(text.len() as u64).to_le_bytes());
            digest.update(text.as_bytes());
        };
        for (collection, texts) in &self.texts {
            add(collection.as_str());
            add(&texts.len().to_string());
            texts.iter().for_each(|text| add(text));
        }
        digest.digest()
    }

    /// Whether nothing is wanted.
    pub(crate) fn is_empty(&self) -> bool {
        self.by_collection.is_empty()
    }

    /// The collections of which something is wanted, in order.
    pub(crate) fn collections(&self) -> impl Iterator<Item = &Collection> {
        self.by_collection.keys()
    }

    /// Whether something of this collection is wanted.
    pub(crate) fn names(&self, collection: &Collection) -> bool {
        self.by_collection.contains_key(collection)
    }

    /// Whether a document is wanted; `document` has its `_id`.
    pub(crate) fn wants(&self, collection: &Collection, document: &Value) -> bool {
        let predicates = self.by_collection.get(collection);
        predicates.is_some_and(|all| all.iter().any(|predicate| predicate.matches(document)))
    }
}

#[cfg(test)]
mod tests {
    use anabranch_core::ids::DocumentKey;

    use super::*;

    fn texts(entries: &[(&str, &[&str])]) -> BTreeMap<Collection, Vec<String>> {
        let entry = |(name, texts): &(&str, &[&str])| {
            (name.parse().unwrap(), texts.iter().map(|&text| text.to_owned()).collect())
        };
        entries.iter().map(entry).collect()
    }

    #[test]
    fn a_document_is_wanted_if_one_condition_of_its_collection_holds() {
        let texts = texts(&[("cars", &["Origin = 'Japan'", "_id = 7"])]);
        let queries = Queries::parse(&texts).unwrap();
        let document = |json: &str, key: &str| {
            let key = DocumentKey::from_canonical(key).unwrap();
            key.add_to(Value::from_json(json.as_bytes()).unwrap())
        };
        let (cars, boats) = ("cars".parse().unwrap(), "boats".parse().unwrap());
        assert!(queries.wants(&cars, &document(r#"{"Origin":"Japan"}"#, "1")));
        assert!(queries.wants(&cars, &document(r#"{"Origin":"USA"}"#, "7")));
        assert!(!queries.wants(&cars, &document(r#"{"Origin":"USA"}"#, "8")));
        assert!(!queries.wants(&boats, &document(r#"{"Origin":"Japan"}"#, "7")));
    }

    #[test]
    fn the_other_side_reads_the_same_queries() {
        let texts = texts(&[("a", &["x = 1", "y = 2"]), ("b", &["true"])]);
        let queries = Queries::parse(&texts).unwrap();
        let read = Queries::from_wire(queries.to_wire()).unwrap();
        assert_eq!(read, queries);
        assert_eq!(read.digest(), queries.digest());
    }

    #[test]
    fn other_queries_have_another_digest() {
        let samples: [&[(&str, &[&str])]; 6] = [
            &[],
            &[("a", &["x = 1"])],
            &[("a", &["x = 1", "y = 2"])],
            &[("a", &["y = 2", "x = 1"])],
            &[("b", &["x = 1"])],
            &[("a", &["x = 1"]), ("b", &["y = 2"])],
        ];
        let digest =
            |entries: &&[(&str, &[&str])]| Queries::parse(&texts(entries)).unwrap().digest();
        let digests: std::collections::BTreeSet<u64> = samples.iter().map(digest).collect();
        assert_eq!(digests.len(), samples.len());
    }

    #[test]
    fn queries_that_cannot_be_read_are_refused() {
        for (collection, predicate) in [("cars", "Origin ="), ("9", "true")] {
            let wire = vec![CollectionQueries {
                collection: collection.to_owned(),
                predicates: vec![predicate.to_owned()],
            }];
            let error = Queries::from_wire(wire).unwrap_err();
            let invalid = RefusalCode::InvalidQuery;
            assert!(matches!(error, Error::Refusing { code, .. } if code == invalid), "{error}");
        }
    }
}

//! Which transactions of a partition are lost, as all of its replicas agree: else one of them could
//! pass over what another one applies.

use std::collections::BTreeMap;

use anabranch_core::cluster::Epoch;
use anabranch_core::ids::TxnId;
use anabranch_core::keyspace::Slice;
use anabranch_core::slicing::PartitionId;
use anabranch_schemas::resources::ResourceId;
use anabranch_schemas::topics::ClusterName;
use serde::{Deserialize, Serialize};

use super::{MetadataError, MetadataStore, Version};
use crate::error::Error;

const VERSION: u32 = 1;

/// What is lost to a partition: neither the log nor any replica has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LostRange {
    version: u32,
    /// The partition.
    pub partition: u32,
    /// The first transaction that is lost.
    pub from: TxnId,
    /// Everything below this is lost; `from` itself if only parts of later ones are.
    pub to: TxnId,
    /// By slice: of later transactions the parts that stand below this offset are lost.
    pub parts_below: BTreeMap<u16, u64>,
    /// The node that declared it.
    pub declared_by: String,
    /// When, in milliseconds since the Unix epoch.
    pub declared_ms: u64,
}

/// An agreement on what is lost, and the how manyth it is of those from the same transaction on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// From 0.
    pub number: u32,
    /// What is lost.
    pub range: LostRange,
}

impl LostRange {
    /// What is lost to a partition from a transaction on, up to where the log begins: in topic
    /// `txns` and in the slices of topic `rounds` that the partition reads.
    pub fn new(
        partition: PartitionId,
        from: TxnId,
        txns_start: TxnId,
        slices: impl IntoIterator<Item = (Slice, crate::Offset)>,
    ) -> Self {
        let parts_below = slices.into_iter().map(|(slice, start)| (slice.0, start.0)).collect();
        LostRange {
            version: VERSION,
            partition: partition.0,
            from,
            to: from.max(txns_start),
            parts_below,
            declared_by: String::new(),
            declared_ms: 0,
        }
    }

    /// The key of the `number`th agreement about what is lost from there on.
    fn key(&self, number: u32) -> String {
        format!("lost/{}/{:020}/{number}", self.partition, self.from.0)
    }
}

impl MetadataStore {
    /// Declares that a range is lost to the replicas of the configuration whose epoch was read, `None`
    /// if there is none. Returns what is agreed on: what another replica declared before, if one did,
    /// be it less. Whoever follows that may find that the log has lost more since; but by then another
    /// replica may have followed it, and applied what comes next. `followed` is the number of the
    /// agreement from the same transaction on that this replica has followed already. `None` if
    /// another configuration is in force by now.
    ///
    /// # Errors
    /// As [`MetadataStore::compare_and_set`]; [`Error::Corrupt`] if an entry makes no sense.
    pub fn declare_lost(
        &self,
        range: &LostRange,
        followed: Option<u32>,
        cluster: &ClusterName,
        read_epoch: Option<Epoch>,
    ) -> Result<Option<Agreed>, MetadataError> {
        let number = followed.map_or(0, |followed| followed + 1);
        let json = serde_json::to_string(range).expect("plain fields always encode");
        let (key, configuration) = (range.key(number), ResourceId::Cluster(cluster.clone()).key());
        let in_force = read_epoch.map(|epoch| Version(epoch.0));
        match self.compare_and_set_beside((&configuration, in_force), &key, None, Some(json)) {
            Ok(_) => Ok(Some(Agreed { number, range: range.clone() })),
            Err(MetadataError::Conflict { key, .. }) if key == configuration => Ok(None),
            Err(MetadataError::Conflict { .. }) => {
                let entry = self.get(&key)?.ok_or_else(|| corrupt(&key, "it was removed"))?;
                Ok(Some(read(&key, &entry.value)?))
            }
            Err(error) => Err(error),
        }
    }

    /// What is lost to a partition, in order: of agreements from the same transaction on the last
    /// one. Those before it are about parts of later transactions only.
    ///
    /// # Errors
    /// As [`MetadataStore::refresh`]; [`Error::Corrupt`] if an entry makes no sense.
    pub fn lost(&self, partition: PartitionId) -> Result<Vec<Agreed>, MetadataError> {
        self.lost_under(&format!("lost/{partition}/"))
    }

    /// The same for all partitions, each in order.
    ///
    /// # Errors
    /// As [`MetadataStore::lost`].
    pub fn all_lost(&self) -> Result<Vec<Agreed>, MetadataError> {
        self.lost_under("lost/")
    }

    fn lost_under(&self, prefix: &str) -> Result<Vec<Agreed>, MetadataError> {
        let mut all = BTreeMap::<(u32, TxnId), Agreed>::new();
        for (key, entry) in self.list(prefix)? {
            let agreed = read(&key, &entry.value)?;
            let from = (agreed.range.partition, agreed.range.from);
            // Numbers do not sort as names do.
            let last = all.get(&from).map_or(0, |last| last.number);
            if agreed.number >= last {
                all.insert(from, agreed);
            }
        }
        Ok(all.into_values().collect())
    }
}

fn corrupt(key: &str, why: &str) -> Error {
    Error::Corrupt(format!("the entry '{key}': {why}"))
}

/// Reads an agreement, which its name has to fit.
fn read(key: &str, value: &str) -> Result<Agreed, Error> {
    let range: LostRange =
        serde_json::from_str(value).map_err(|error| corrupt(key, &error.to_string()))?;
    let number = key.rsplit('/').next().and_then(|number| number.parse().ok());
    match number.filter(|number| range.key(*number) == key) {
        Some(number) if range.version == VERSION && range.to >= range.from => {
            Ok(Agreed { number, range })
        }
        _ => Err(corrupt(key, "it makes no sense")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Offset;
    use crate::metadata::tests::Bench;

    fn range(from: u64, start: u64) -> LostRange {
        LostRange::new(PartitionId(2), TxnId(from), TxnId(start), [(Slice(3), Offset(start))])
    }

    fn agreed(number: u32, from: u64, start: u64) -> Agreed {
        Agreed { number, range: range(from, start) }
    }

    /// Declares it in a cluster without a configuration.
    fn declare(store: &MetadataStore, range: &LostRange, followed: Option<u32>) -> Agreed {
        let cluster = "east".parse().unwrap();
        let agreed = store.declare_lost(range, followed, &cluster, None).unwrap();
        agreed.expect("no other configuration is in force")
    }

    #[test]
    fn who_comes_later_follows_what_was_agreed_be_it_less() {
        let bench = Bench::new();
        let (store, other) = (bench.store(), bench.store());
        assert_eq!(declare(&store, &range(5, 9), None), agreed(0, 5, 9));
        assert_eq!(declare(&other, &range(5, 8), None), agreed(0, 5, 9));
        let more = declare(&other, &range(5, 20), None);
        assert_eq!(more, agreed(0, 5, 9), "the first may have followed it, and has more by now");
        assert_eq!(
            declare(&other, &range(5, 20), Some(0)),
            agreed(1, 5, 20),
            "parts only were lost"
        );
        assert_eq!(declare(&store, &range(5, 30), Some(0)), agreed(1, 5, 20));
        assert_eq!(declare(&other, &range(9, 20), None), agreed(0, 9, 20), "the next one");
    }

    #[test]
    fn nothing_is_declared_lost_in_a_configuration_that_is_no_longer_in_force() {
        let bench = Bench::new();
        let store = bench.store();
        let (key, text) = ("cluster/east", Some("declared".to_owned()));
        let declare = |epoch: Option<u64>| {
            let cluster = "east".parse().unwrap();
            store.declare_lost(&range(5, 9), None, &cluster, epoch.map(Epoch)).unwrap()
        };
        store.compare_and_set(key, None, text.clone()).unwrap();
        assert_eq!(declare(None), None);
        store.compare_and_set(key, Some(Version(1)), text).unwrap();
        assert_eq!(declare(Some(1)), None, "there are other replicas now, which may have it");
        assert_eq!(store.all_lost().unwrap(), vec![]);
        assert_eq!(declare(Some(2)), Some(agreed(0, 5, 9)));
    }

    #[test]
    fn of_agreements_from_the_same_transaction_on_the_last_one_counts() {
        let bench = Bench::new();
        let store = bench.store();
        declare(&store, &range(40, 50), None);
        for (number, start) in (0..).zip(9..21) {
            declare(&store, &range(5, start), u32::checked_sub(number, 1));
        }
        let other = LostRange::new(PartitionId(22), TxnId(1), TxnId(2), []);
        declare(&store, &other, None);
        let expected = vec![agreed(11, 5, 20), agreed(0, 40, 50)];
        assert_eq!(bench.store().lost(PartitionId(2)).unwrap(), expected);
        assert_eq!(store.lost(PartitionId(3)).unwrap(), vec![]);
        let all = [expected, vec![Agreed { number: 0, range: other }]].concat();
        assert_eq!(store.all_lost().unwrap(), all, "and that of partition 22");
    }

    #[test]
    fn it_may_be_about_parts_only() {
        assert_eq!((range(5, 0).from, range(5, 0).to), (TxnId(5), TxnId(5)));
    }

    #[test]
    fn what_makes_no_sense_is_corrupt() {
        let bench = Bench::new();
        let store = bench.store();
        let json = serde_json::to_string(&range(6, 9)).unwrap();
        for (from, value) in [(5, json), (7, "{}".to_owned())] {
            store.compare_and_set(&range(from, 9).key(0), None, Some(value)).unwrap();
            let cluster = "east".parse().unwrap();
            let error = store.declare_lost(&range(from, 9), None, &cluster, None).unwrap_err();
            assert!(matches!(error, MetadataError::Journal(Error::Corrupt(_))), "{error}");
            assert!(store.lost(PartitionId(2)).is_err());
        }
    }
}

//! Whether a node hears enough of its cluster to answer for it. Pure.

use std::time::Duration;

use anabranch_core::cluster::NodeId;
use anabranch_core::ids::TxnId;
use tokio::time::Instant;

use crate::membership::Membership;

/// A node that is not heard for this long is not heard. Whoever is cut off knows of nothing new, and
/// reads through it see nothing new until it says so: that has to be within two seconds. A node that
/// is taken for cut off and is not answers all the same.
pub(super) const SILENCE: Duration = Duration::from_secs(1);

/// Why a node that hears these nodes does not answer for its cluster; `None` if it does.
///
/// Who hears nobody of any other partition was cut off rather than all of them have died. A partition
/// that is gone as a whole says nothing of who misses it: all others do.
pub(super) fn isolation(
    membership: &Membership,
    is_heard: impl Fn(&NodeId) -> bool,
    reads_log: bool,
) -> Option<String> {
    let (configuration, seconds) = (membership.configuration(), SILENCE.as_secs());
    let own = configuration.member(membership.node())?.partition;
    let members = configuration.members();
    let mut others = members.iter().filter(|(_, member)| member.partition != own).peekable();
    if others.peek().is_some() {
        return (!others.any(|(node, _)| is_heard(node))).then(|| {
            format!("no store node of another partition was heard for {seconds} s: cut off?")
        });
    }
    let nodes = || configuration.replicas(own);
    let is_alone = nodes().all(|node| node == membership.node() || !is_heard(node));
    if is_alone && nodes().count() > 1 && !reads_log {
        return Some("neither the log nor another store node is reached: cut off?".to_owned());
    }
    let heard = nodes().filter(|node| *node == membership.node() || is_heard(node)).count();
    let quorum = configuration.quorum(own);
    (heard < quorum).then(|| {
        format!(
            "of {} store nodes only {heard} were heard for {seconds} s, this one included, and \
             {quorum} have to have what is read: cut off?",
            nodes().count()
        )
    })
}

/// For how long what is stable has stood still although this node itself has more.
#[derive(Debug, Default)]
pub(super) struct Standstill(Option<(TxnId, Instant)>);

impl Standstill {
    /// Whether it has for so long that another node may know of more: this one may hear some of the
    /// others and not those who tell what is stable. `applied` and `stable` are the first transactions
    /// that are not.
    pub(super) fn note(&mut self, applied: TxnId, stable: TxnId, now: Instant) -> bool {
        if applied <= stable {
            self.0 = None;
            return false;
        }
        match self.0 {
            Some((same, since)) if same == stable => now - since >= SILENCE,
            _ => {
                self.0 = Some((stable, now));
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use anabranch_core::cluster::Configuration;
    use anabranch_core::keyspace::SliceCount;

    use super::*;
    use crate::gossip::doubles::{configuration, node};

    /// Node `a` of a cluster.
    fn member(configuration: Configuration) -> Membership {
        let listen = "127.0.0.1:7070".parse().unwrap();
        Membership::new(Some(node("a")), Some(configuration), SliceCount::default(), listen)
            .unwrap()
    }

    #[test]
    fn who_has_more_than_is_stable_for_long_asks_for_another_to_be_asked() {
        let (mut standstill, start) = (Standstill::default(), Instant::now());
        let mut note = |applied, stable, after| {
            standstill.note(TxnId(applied), TxnId(stable), start + SILENCE.mul_f64(after))
        };
        assert!(!note(5, 5, 0.0) && !note(5, 5, 9.0), "there is nothing more");
        assert!(!note(6, 5, 9.0) && !note(8, 5, 9.9));
        assert!(note(9, 5, 10.0));
        assert!(!note(9, 6, 10.1), "it moves");
        assert!(!note(9, 6, 11.0) && note(9, 6, 11.2));
        assert!(!note(9, 9, 11.3));
    }

    fn is_isolated(cluster: &[&[&str]], quorum: Option<usize>, heard: &[&str]) -> bool {
        let membership = member(configuration(1, cluster, quorum));
        isolation(&membership, |node| heard.contains(&node.as_str()), true).is_some()
    }

    #[test]
    fn who_hears_nobody_of_another_partition_is_cut_off() {
        let cluster: &[&[&str]] = &[&["a", "b"], &["c", "d"], &["e"]];
        for (heard, expected) in [
            (&[][..], true),
            (&["b"], true),
            (&["c"], false),
            (&["b", "e"], false),
            (&["b", "c", "d", "e"], false),
        ] {
            assert_eq!(is_isolated(cluster, None, heard), expected, "{heard:?}");
        }
    }

    #[test]
    fn in_a_single_partition_a_quorum_has_to_be_heard() {
        let cluster: &[&[&str]] = &[&["a", "b", "c"]];
        assert!(is_isolated(cluster, None, &[]));
        assert!(!is_isolated(cluster, None, &["c"]));
        assert!(is_isolated(cluster, Some(3), &["c"]));
        assert!(!is_isolated(cluster, Some(1), &[]));
        assert!(!is_isolated(&[&["a"]], None, &[]), "it is alone");
    }

    /// One that is a quorum by itself knows of nothing new without the log.
    #[test]
    fn who_reaches_nothing_is_cut_off() {
        let is_isolated = |cluster: &[&[&str]], heard: &[&str]| {
            let membership = member(configuration(1, cluster, Some(1)));
            isolation(&membership, |node| heard.contains(&node.as_str()), false).is_some()
        };
        assert!(is_isolated(&[&["a", "b"]], &[]));
        assert!(!is_isolated(&[&["a", "b"]], &["b"]), "the log is away, for both perhaps");
        assert!(!is_isolated(&[&["a"]], &[]), "there is no other");
    }
}

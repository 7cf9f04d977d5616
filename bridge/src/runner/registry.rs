//! The replications that run here: whom a connection that was accepted is for, and who wants what.

use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::mpsc;

use anabranch_core::ids::{ActorId, AppId, Collection};
use anabranch_schemas::resources::ResourceName;
use anabranch_schemas::topics::ClusterName;

use crate::link::{Incoming, Peer, RefusalCode};
use crate::queries::Queries;
use crate::receive::Other;

/// One replication.
pub(super) struct Entry {
    pub(super) app: AppId,
    pub(super) name: ResourceName,
    /// Whether it dials others itself.
    pub(super) dials: bool,
    pub(super) queries: Arc<Queries>,
    /// The cluster it is linked to.
    pub(super) linked: Option<(ActorId, ClusterName)>,
    /// The actor it was linked to last.
    pub(super) last: Option<ActorId>,
    /// Where connections for it go.
    pub(super) inbox: mpsc::Sender<Incoming>,
}

/// Why a connection belongs to no replication.
type Refusal = (RefusalCode, String);

/// All replications of a process.
#[derive(Default)]
pub(super) struct Registry(Mutex<Vec<Entry>>);

impl Registry {
    /// Adds a replication; one of the same name is replaced.
    pub(super) fn add(&self, entry: Entry) {
        let mut entries = self.lock();
        entries.retain(|other| (other.app, &other.name) != (entry.app, &entry.name));
        entries.push(entry);
        entries.sort_by(|a, b| (a.app, &a.name).cmp(&(b.app, &b.name)));
    }

    /// Removes a replication.
    pub(super) fn remove(&self, app: AppId, name: &ResourceName) {
        self.lock().retain(|entry| (entry.app, &entry.name) != (app, name));
    }

    /// Notes which cluster a replication is linked to.
    pub(super) fn set_linked(&self, app: AppId, name: &ResourceName, linked: Option<&Peer>) {
        for entry in self.lock().iter_mut() {
            if (entry.app, &entry.name) == (app, name) {
                entry.linked = linked.map(|peer| (peer.actor, peer.cluster.clone()));
                entry.last = linked.map(|peer| peer.actor).or(entry.last);
            }
        }
    }

    /// Whether an actor may be what it says it is: not if a link stands with a cluster of another
    /// name that has the same log.
    pub(super) fn check(&self, peer: &Peer) -> Result<(), Refusal> {
        let entries = self.lock();
        let mut linked = entries.iter().filter_map(|entry| entry.linked.as_ref());
        let other = linked.find(|(actor, name)| *actor == peer.actor && *name != peer.cluster);
        other.map_or(Ok(()), |(actor, name)| {
            let reason = format!("log {actor} is that of cluster '{name}', which is linked");
            Err((RefusalCode::Identity, reason))
        })
    }

    /// The replication that a connection of `peer` belongs to: the one that is linked to it
    /// already, else one that was, else a free one, before all one that waits to be dialled. One
    /// that dials has chosen its cluster: once it knows it, it takes no other.
    pub(super) fn choose(&self, peer: &Peer) -> Result<mpsc::Sender<Incoming>, Refusal> {
        self.check(peer)?;
        let (app, actor) = (peer.app, peer.actor);
        let entries = self.lock();
        let of_app = || entries.iter().filter(|entry| entry.app == app);
        let linked = of_app().find(|entry| entry.linked.as_ref().is_some_and(|l| l.0 == actor));
        let free = || of_app().filter(|entry| entry.linked.is_none());
        let chosen = linked
            .or_else(|| free().find(|entry| entry.last == Some(actor)))
            .or_else(|| free().find(|entry| !entry.dials))
            .or_else(|| free().find(|entry| entry.last.is_none()))
            .ok_or_else(|| match of_app().next() {
                None => (
                    RefusalCode::UnknownApp,
                    format!(
                        "this cluster has no replication of app {app}: compare the app ids of \
                         both sides, or declare a replication of it here"
                    ),
                ),
                Some(_) => (
                    RefusalCode::Busy,
                    format!(
                        "every replication of app {app} here is linked to another cluster, or \
                         dials one: declare one more"
                    ),
                ),
            })?;
        Ok(chosen.inbox.clone())
    }

    /// The other replications of an app than `name` that want something of a collection.
    pub(super) fn others(
        &self,
        app: AppId,
        name: &ResourceName,
        collection: &Collection,
    ) -> Vec<Other> {
        let entries = self.lock();
        let others = entries.iter().filter(|entry| {
            entry.app == app && entry.name != *name && entry.queries.names(collection)
        });
        let other = |entry: &Entry| Other { queries: entry.queries.clone(), remote: entry.last };
        others.map(other).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.0.lock().expect("nothing panics while it is held")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    const APP: AppId = AppId(Uuid::from_u128(1));

    fn add(registry: &Registry, name: &str, dials: bool) -> mpsc::Sender<Incoming> {
        let (inbox, _) = mpsc::channel(1);
        let texts = [("c".parse().unwrap(), vec![format!("w = '{name}'")])];
        registry.add(Entry {
            app: APP,
            name: name.parse().unwrap(),
            dials,
            queries: Arc::new(Queries::parse(&texts.into()).unwrap()),
            linked: None,
            last: None,
            inbox: inbox.clone(),
        });
        inbox
    }

    fn peer(cluster: &str, actor: u128) -> Peer {
        Peer {
            cluster: cluster.parse().unwrap(),
            actor: ActorId(Uuid::from_u128(actor)),
            app: APP,
            address: "there".to_owned(),
        }
    }

    #[test]
    fn a_connection_goes_to_who_waits_for_it() {
        let registry = Registry::default();
        let (x, y, z) = (peer("x", 1), peer("y", 2), peer("z", 3));
        assert_eq!(registry.choose(&x).unwrap_err().0, RefusalCode::UnknownApp);
        let (dials, waits) = (add(&registry, "dials", true), add(&registry, "waits", false));
        let chosen = |peer: &Peer| {
            let chosen = registry.choose(peer).map_err(|(code, _)| code)?;
            Ok([&dials, &waits].map(|inbox| inbox.same_channel(&chosen)))
        };
        let link = |name: &str, peer| registry.set_linked(APP, &name.parse().unwrap(), peer);
        assert_eq!(chosen(&x), Ok([false, true]));
        link("waits", Some(&x));
        assert_eq!(chosen(&y), Ok([true, false]));
        link("dials", Some(&y));
        assert_eq!(chosen(&x), Ok([false, true]));
        assert_eq!(chosen(&y), Ok([true, false]));
        assert_eq!(chosen(&z), Err(RefusalCode::Busy));
        // The one that dials y keeps to it, linked or not.
        link("dials", None);
        assert_eq!(chosen(&z), Err(RefusalCode::Busy));
        assert_eq!(chosen(&y), Ok([true, false]));
        link("waits", None);
        assert_eq!(chosen(&z), Ok([false, true]));
    }

    #[test]
    fn nobody_may_claim_the_log_of_a_cluster_that_is_linked() {
        let registry = Registry::default();
        let (_dials, _waits) = (add(&registry, "dials", true), add(&registry, "waits", false));
        registry.set_linked(APP, &"dials".parse().unwrap(), Some(&peer("x", 1)));
        assert_eq!(registry.choose(&peer("y", 1)).unwrap_err().0, RefusalCode::Identity);
        assert!(registry.check(&peer("x", 1)).is_ok());
        registry.set_linked(APP, &"dials".parse().unwrap(), None);
        assert!(registry.choose(&peer("y", 1)).is_ok());
    }

    #[test]
    fn others_are_those_that_want_something_and_whom_they_hear() {
        let registry = Registry::default();
        let (_a, _b) = (add(&registry, "a", true), add(&registry, "b", false));
        let (a, b) = ("a".parse().unwrap(), "b".parse().unwrap());
        registry.set_linked(APP, &b, Some(&peer("x", 1)));
        registry.set_linked(APP, &b, None);
        let remotes = |name, collection: &str| {
            let others = registry.others(APP, name, &collection.parse().unwrap());
            others.iter().map(|other| other.remote).collect::<Vec<_>>()
        };
        assert_eq!(remotes(&a, "c"), [Some(ActorId(Uuid::from_u128(1)))]);
        assert_eq!(remotes(&b, "c"), [None]);
        assert_eq!(remotes(&a, "other"), []);
    }
}

//! The replications that run here: whom a connection that was accepted is for, and who wants what.

use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::mpsc;

use anabranch_core::Value;
use anabranch_core::ids::{ActorId, AppId, DocumentId};
use anabranch_schemas::resources::ResourceName;

use crate::link::{Incoming, RefusalCode};
use crate::queries::Queries;

/// One replication.
pub(super) struct Entry {
    pub(super) app: AppId,
    pub(super) name: ResourceName,
    /// Whether it dials others itself.
    pub(super) dials: bool,
    pub(super) queries: Arc<Queries>,
    /// The cluster it is linked to.
    pub(super) linked: Option<ActorId>,
    /// Where connections for it go.
    pub(super) inbox: mpsc::Sender<Incoming>,
}

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
    pub(super) fn set_linked(&self, app: AppId, name: &ResourceName, linked: Option<ActorId>) {
        for entry in self.lock().iter_mut() {
            if (entry.app, &entry.name) == (app, name) {
                entry.linked = linked;
            }
        }
    }

    /// The replication that a connection of `actor` for `app` belongs to: the one that is linked
    /// to it already, else a free one, before all one that waits to be dialled.
    pub(super) fn choose(
        &self,
        app: AppId,
        actor: ActorId,
    ) -> Result<mpsc::Sender<Incoming>, (RefusalCode, String)> {
        let entries = self.lock();
        let of_app = || entries.iter().filter(|entry| entry.app == app);
        let linked = of_app().find(|entry| entry.linked == Some(actor));
        let free = || of_app().filter(|entry| entry.linked.is_none());
        let chosen = linked
            .or_else(|| free().find(|entry| !entry.dials))
            .or_else(|| free().next())
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
                        "every replication of app {app} here is linked to another cluster: \
                         declare one more"
                    ),
                ),
            })?;
        Ok(chosen.inbox.clone())
    }

    /// Whether another replication than `name` wants a document, which has its `_id`.
    pub(super) fn wanted_elsewhere(
        &self,
        name: &ResourceName,
        id: &DocumentId,
        document: &Value,
    ) -> bool {
        self.lock().iter().any(|entry| {
            entry.app == id.app
                && entry.name != *name
                && entry.queries.wants(&id.collection, document)
        })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.0.lock().expect("nothing panics while it is held")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn add(registry: &Registry, name: &str, dials: bool) -> mpsc::Sender<Incoming> {
        let (inbox, _) = mpsc::channel(1);
        let texts = [("c".parse().unwrap(), vec![format!("w = '{name}'")])];
        registry.add(Entry {
            app: AppId(Uuid::from_u128(1)),
            name: name.parse().unwrap(),
            dials,
            queries: Arc::new(Queries::parse(&texts.into()).unwrap()),
            linked: None,
            inbox: inbox.clone(),
        });
        inbox
    }

    #[test]
    fn a_connection_goes_to_who_waits_for_it() {
        let (registry, app) = (Registry::default(), AppId(Uuid::from_u128(1)));
        let [x, y] = [1, 2].map(|actor| ActorId(Uuid::from_u128(actor)));
        assert_eq!(registry.choose(app, x).unwrap_err().0, RefusalCode::UnknownApp);
        let (dials, waits) = (add(&registry, "dials", true), add(&registry, "waits", false));
        let chosen = |actor| {
            let chosen = registry.choose(app, actor).map_err(|(code, _)| code)?;
            Ok([&dials, &waits].map(|inbox| inbox.same_channel(&chosen)))
        };
        assert_eq!(chosen(x), Ok([false, true]));
        registry.set_linked(app, &"waits".parse().unwrap(), Some(x));
        assert_eq!(chosen(y), Ok([true, false]));
        registry.set_linked(app, &"dials".parse().unwrap(), Some(y));
        assert_eq!(chosen(x), Ok([false, true]));
        assert_eq!(chosen(y), Ok([true, false]));
        let other = ActorId(Uuid::from_u128(3));
        assert_eq!(chosen(other), Err(RefusalCode::Busy));
    }
}

//! One direction of a link: the pure cores of a sender and a receiver, with what is on its way.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use rand::Rng;
use rand::rngs::StdRng;

use anabranch_core::document::{Document, VersionVector};
use anabranch_core::hlc::Hlc;
use anabranch_core::ids::{ActorId, DocumentId, TxnId};
use anabranch_core::keyspace::Slice;
use anabranch_schemas::resources::OnLeave;
use anabranch_schemas::store::ScanItem;
use anabranch_schemas::{link, state};

use crate::doubles::cluster::{APP, ChangeRecord, Cluster};
use crate::link::versions_bytes;
use crate::queries::Queries;
use crate::receive::{Listing, ListingLimits, Preparer, Told};
use crate::send::{At, BatchLimits, Chunks, Listed, Rounds, Selector, Source};

const LIMITS: BatchLimits = BatchLimits { max_bytes: 600, max_documents: 4, max_round_bytes: 400 };
const LISTING: ListingLimits =
    ListingLimits { max_documents: 3, max_bytes: 200, max_scanned: 5, max_scanned_bytes: 1_000 };
const WINDOW: usize = 3;

pub(super) struct Direction {
    pub(super) queries: Arc<Queries>,
    pub(super) on_leave: OnLeave,
    sending: Option<Sending>,
    in_flight: VecDeque<link::Batch>,
    /// What the receiver said it holds, on its way back.
    holdings: VecDeque<link::Holdings>,
    told: Told,
    /// Up to where a snapshot was finished as of a later time than it was begun.
    blurred: TxnId,
}

struct Sending {
    selector: Arc<Selector>,
    at: At,
    tail: Option<Tail>,
    snapshot_txn: Option<TxnId>,
    /// Until where the tail may be older than the snapshot, if it follows one.
    replays_until: Option<TxnId>,
    listed: Option<Arc<Listed>>,
    number: u64,
}

impl Sending {
    fn position(&self, next: TxnId) -> At {
        if Some(next) < self.replays_until { At::Replay(next) } else { At::Tail(next) }
    }
}

struct Tail {
    rounds: Rounds,
    commits: usize,
    slices: Vec<usize>,
}

impl Direction {
    pub(super) fn new(queries: Queries, on_leave: OnLeave) -> Self {
        Direction {
            queries: Arc::new(queries),
            on_leave,
            sending: None,
            in_flight: VecDeque::new(),
            holdings: VecDeque::new(),
            told: Told::new(None),
            blurred: TxnId(0),
        }
    }

    /// The link breaks, or one of the two processes dies.
    pub(super) fn cut(&mut self) {
        self.sending = None;
        self.in_flight.clear();
        self.holdings.clear();
    }

    fn connect(&mut self, sender: &Cluster, receiver: &Cluster) -> Sending {
        let digest = self.queries.digest();
        let cursor = receiver.cursor.as_ref().filter(|cursor| cursor.remote == sender.actor);
        let position = cursor.map(|cursor| link::Position {
            next: cursor.next.0,
            snapshot: cursor
                .snapshot_after
                .clone()
                .map(|after| link::SnapshotPosition { after: after.into() }),
            queries: cursor.queries,
        });
        let held = cursor.and_then(|cursor| cursor.snapshot_after.clone());
        self.told = Told::new(held.as_deref());
        self.tell_holdings(held.as_deref(), sender, receiver);
        let at = At::of(position, digest);
        let queries = Queries::from_wire(self.queries.to_wire()).unwrap();
        let selector = Arc::new(Selector::new(APP, queries, receiver.actor));
        let mut sending = Sending {
            selector,
            at: At::Tail(TxnId(0)),
            tail: None,
            snapshot_txn: None,
            replays_until: None,
            listed: None,
            number: 0,
        };
        match at {
            Some(at) => sending.at = at,
            None => self.begin(sender, &mut sending),
        }
        sending
    }

    /// The receiver is told that it begins with a snapshot, if there is anything.
    fn begin(&mut self, sender: &Cluster, sending: &mut Sending) {
        (sending.tail, sending.listed, sending.replays_until) = (None, None, None);
        let next = sender.end();
        sending.at = At::Tail(next);
        if next > TxnId(0) {
            sending.at = At::Snapshot { next, after: Bytes::new() };
            self.push(sending, Vec::new());
        }
    }

    /// The receiver says what it holds, if it is time to.
    fn tell_holdings(&mut self, position: Option<&[u8]>, sender: &Cluster, receiver: &Cluster) {
        let Some(after) = self.told.due(position) else { return };
        let preparer = self.preparer(sender, receiver);
        let mut listing = Listing::new(&preparer, after.clone(), LISTING);
        for id in receiver.versions.keys() {
            let document_id = Bytes::from(id.to_bytes());
            let Some(document) = receiver.latest(id).filter(|_| document_id > after) else {
                continue;
            };
            if listing.is_full() {
                break;
            }
            listing.add(ScanItem { document_id, state: state::encode(document) }).unwrap();
        }
        let has_more = listing.is_full();
        let mut holdings = listing.finish(has_more);
        self.told.tell(&holdings);
        invent(&mut holdings, sender, receiver);
        self.holdings.push_back(holdings);
    }

    /// The sender does something small. Whether there was anything to do.
    pub(super) fn send(&mut self, sender: &Cluster, receiver: &Cluster, rng: &mut StdRng) -> bool {
        if self.in_flight.len() >= WINDOW {
            return false;
        }
        let mut sending = match self.sending.take() {
            Some(sending) => sending,
            None => self.connect(sender, receiver),
        };
        let done = match sending.at.clone() {
            At::Snapshot { next, after } => {
                let Some(listed) = self.listed(&mut sending, &after) else {
                    self.sending = Some(sending);
                    return false;
                };
                // The store no longer reads as of then; the rest is as of now.
                if sending.snapshot_txn.is_none() {
                    let late = rng.random_bool(0.2) && !sender.log.is_empty();
                    let now = TxnId(sender.end().0.saturating_sub(1));
                    let begun = TxnId(next.0.saturating_sub(1));
                    if late && now > begun {
                        self.blurred = now;
                    }
                    sending.snapshot_txn = Some(if late { now } else { begun });
                }
                self.send_snapshot(sender, receiver, &mut sending, (next, &after), &listed);
                true
            }
            At::Replay(next) | At::Tail(next) if next < sender.start => {
                self.begin(sender, &mut sending);
                true
            }
            At::Replay(next) => {
                sending.replays_until.get_or_insert(sender.end());
                self.send_tail(sender, receiver.actor, &mut sending, next, rng)
            }
            At::Tail(next) => self.send_tail(sender, receiver.actor, &mut sending, next, rng),
        };
        self.sending = Some(sending);
        done
    }

    /// What the receiver said it holds from `after` on, once that has arrived.
    fn listed(&mut self, sending: &mut Sending, after: &Bytes) -> Option<Arc<Listed>> {
        let goes_on = |listed: &&Arc<Listed>| listed.goes_on_from(after);
        while sending.listed.as_ref().filter(goes_on).is_none() {
            let holdings = self.holdings.pop_front()?;
            sending.listed = Some(Arc::new(Listed::from_wire(holdings).unwrap()));
            sending.snapshot_txn = None;
        }
        sending.listed.clone()
    }

    fn send_snapshot(
        &mut self,
        sender: &Cluster,
        receiver: &Cluster,
        sending: &mut Sending,
        (next, after): (TxnId, &Bytes),
        listed: &Arc<Listed>,
    ) {
        let txn = sending.snapshot_txn.expect("it was chosen");
        let mut chunks =
            Chunks::new(sender.actor, txn, Hlc(0), after.clone(), listed.clone(), LIMITS);
        let mut finished = true;
        for id in sender.versions.keys() {
            let document_id = Bytes::from(id.to_bytes());
            let Some(document) = sender.read(id, txn).filter(|_| document_id > *after) else {
                continue;
            };
            if !listed.includes(&document_id) {
                break;
            }
            if chunks.is_full() {
                finished = false;
                break;
            }
            let item = ScanItem { document_id, state: state::encode(document) };
            chunks.add(&sending.selector, item).unwrap();
        }
        let (rounds, after) = chunks.take();
        for change in rounds.iter().flat_map(|round| &round.changes) {
            self.check_snapshot(sender, receiver, change, txn, listed);
        }
        sending.at = if finished { listed.end(next) } else { At::Snapshot { next, after } };
        self.push(sending, rounds);
    }

    fn send_tail(
        &mut self,
        sender: &Cluster,
        receiver: ActorId,
        sending: &mut Sending,
        next: TxnId,
        rng: &mut StdRng,
    ) -> bool {
        let tail = sending.tail.get_or_insert_with(|| Tail {
            rounds: Rounds::new(
                Source {
                    app: APP,
                    slices: sender.slices,
                    actor: sender.actor,
                    selector: sending.selector.clone(),
                    replays_until: sending.replays_until.unwrap_or_default(),
                },
                next,
                LIMITS,
            ),
            commits: sender.log.partition_point(|applied| applied.txn < next),
            slices: vec![0; usize::from(sender.slices.get())],
        });
        let mut unread: Vec<Option<usize>> = (0..tail.slices.len())
            .filter(|slice| tail.slices[*slice] < sender.changes[*slice].len())
            .map(Some)
            .collect();
        if tail.commits < sender.log.len() {
            unread.push(None);
        }
        let read = !unread.is_empty();
        if read {
            match unread[rng.random_range(0..unread.len())] {
                None => {
                    let applied = &sender.log[tail.commits];
                    tail.commits += 1;
                    tail.rounds.commit(applied.txn, &applied.commit).unwrap();
                }
                Some(index) => {
                    let record = sender.changes[index][tail.slices[index]].clone();
                    tail.slices[index] += 1;
                    let slice = Slice(u16::try_from(index).unwrap());
                    match record {
                        ChangeRecord::Mark(mark) => tail.rounds.mark(slice, mark.txn).unwrap(),
                        ChangeRecord::Change(key, change) => {
                            let is_replayed = Some(change.txn) < sending.replays_until;
                            if let Some(selected) = sending
                                .selector
                                .select(sender.actor, key, *change, is_replayed)
                                .unwrap()
                            {
                                tail.rounds.change(slice, selected).unwrap();
                            }
                        }
                    }
                }
            }
        }
        if rng.random_bool(0.4) {
            let Some(tail) = &mut sending.tail else { return read };
            let Some(outgoing) = tail.rounds.take() else {
                // Now and then the receiver is told that there is nothing for it.
                let next = tail.rounds.next();
                let idle = sending.position(next);
                if idle == sending.at || read {
                    return read;
                }
                sending.at = idle;
                self.push(sending, Vec::new());
                return true;
            };
            for round in &outgoing.rounds {
                for change in &round.changes {
                    self.check_tail(sender, receiver, round, change);
                }
            }
            sending.at = sending.position(outgoing.next);
            self.push(sending, outgoing.rounds);
            return true;
        }
        read
    }

    fn push(&mut self, sending: &mut Sending, rounds: Vec<link::Round>) {
        sending.number += 1;
        self.in_flight.push_back(link::Batch {
            rounds,
            position: Some(sending.at.to_wire(self.queries.digest())),
            sent_ms: 0,
            number: sending.number,
        });
    }

    fn wants(&self, id: &DocumentId, document: &Document) -> bool {
        self.queries.wants(&id.collection, &id.key.add_to(document.hidden_value()))
    }

    /// BR-3: what a snapshot sends is wanted. Else the receiver had it, and is told nothing that it
    /// did not say, or has written a part of it; and no field is sent.
    fn check_snapshot(
        &self,
        sender: &Cluster,
        receiver: &Cluster,
        change: &link::Change,
        txn: TxnId,
        listed: &Listed,
    ) {
        let id = DocumentId::from_bytes(&change.document_id).unwrap();
        let document = sender.read(&id, txn).unwrap();
        assert_eq!(change.left, !self.wants(&id, document), "BR-3: {id} as of {txn}");
        if change.left {
            let sent = state::decode(&change.state).unwrap();
            assert_eq!(sent, Document { versions: sent.versions.clone(), ..Document::default() });
            let had_it = receiver.versions.contains_key(&id)
                && listed.held(&change.document_id) == Some(&sent.versions);
            let has_part = document.versions.iter().any(|(actor, _)| actor == receiver.actor);
            assert!(had_it || has_part, "BR-3: {id}");
        }
    }

    /// BR-3: of what is sent, the state was wanted after the change. Of what was only wanted
    /// before, or written by the receiver, no field is sent.
    fn check_tail(
        &self,
        sender: &Cluster,
        receiver: ActorId,
        round: &link::Round,
        change: &link::Change,
    ) {
        let id = DocumentId::from_bytes(&change.document_id).unwrap();
        let versions = &sender.versions[&id];
        let sent = state::decode(&change.state).unwrap();
        let is_it = |version: &Document| version.versions == sent.versions;
        let index = versions.iter().position(|(_, version)| version.as_ref().is_some_and(is_it));
        let index = index.unwrap_or_else(|| panic!("{id} was never like that"));
        let (txn, version) = &versions[index];
        let version = version.as_ref().unwrap();
        if !change.left {
            assert_eq!(&sent, version);
            assert!(self.wants(&id, &sent), "BR-3: {id} in {round:?}");
            return;
        }
        assert_eq!(sent, Document { versions: sent.versions.clone(), ..Document::default() });
        let before = index.checked_sub(1).and_then(|before| versions[before].1.as_ref());
        let was_wanted = before.is_some_and(|d| d.is_visible() && self.wants(&id, d));
        let applied = sender.log.iter().find(|applied| applied.txn == *txn).unwrap();
        let is_receivers = applied.commit.origin == receiver;
        assert!(was_wanted || is_receivers, "BR-3: {id} in {round:?}");
        assert!(!self.wants(&id, version), "{id} has not left");
    }

    /// The receiver writes what has arrived, or a part of it. Whether there was anything to do.
    pub(super) fn receive(
        &mut self,
        sender: &Cluster,
        receiver: &mut Cluster,
        now_ms: u64,
        rng: &mut StdRng,
    ) -> bool {
        if self.in_flight.is_empty() {
            return false;
        }
        let together = rng.random_range(1..=self.in_flight.len());
        let mut cursor = None;
        for _ in 0..together {
            let batch = self.in_flight.pop_front().unwrap();
            let prepared = self.preparer(sender, receiver).prepare(batch, now_ms).unwrap();
            assert!(prepared.dead_letters.is_empty(), "{:?}", prepared.dead_letters);
            for round in prepared.rounds {
                let origin = Some((round.origin, round.origin_txn));
                receiver.write(&round.mutations, origin, now_ms, rng.random_bool(0.1));
            }
            cursor = Some(prepared.cursor);
        }
        receiver.cursor = cursor;
        let position = receiver.cursor.as_ref().and_then(|cursor| cursor.snapshot_after.clone());
        self.tell_holdings(position.as_deref(), sender, receiver);
        self.check_prefix(sender, receiver);
        true
    }

    fn preparer(&self, sender: &Cluster, receiver: &Cluster) -> Preparer {
        let end = receiver.end();
        let latest = receiver.versions.keys().map(|id| (id.clone(), receiver.latest(id).cloned()));
        let held: BTreeMap<_, _> = latest.collect();
        Preparer {
            actor: receiver.actor,
            app: APP,
            replication: "r".parse().unwrap(),
            remote: sender.actor,
            queries: self.queries.clone(),
            on_leave: self.on_leave,
            max_clock_drift_ms: 60_000,
            others: Arc::new(|_| Vec::new()),
            held: Arc::new(move |id| Ok(held.get(id).cloned().flatten())),
            was_written: Arc::new(move |txn| Ok(txn < end)),
        }
    }

    /// BR-2: in the tail, the receiver has all of the sender's log below its position that it asked
    /// for, and nothing of it from there on.
    fn check_prefix(&self, sender: &Cluster, receiver: &Cluster) {
        let cursor = receiver.cursor.as_ref().expect("it was just written");
        if cursor.snapshot_after.is_some() || cursor.next <= self.blurred {
            return;
        }
        for id in sender.versions.keys() {
            let held = receiver.latest(id);
            let seen = held.map(|held| held.versions.clone()).unwrap_or_default();
            let own = seen.iter().find(|(actor, _)| *actor == sender.actor);
            if let Some((_, sequence)) = own {
                // Of a round that is too large for one batch, a part may be there.
                let ahead = sequence > cursor.next.0;
                assert!(!ahead, "BR-2: {id} is ahead of {}", cursor.next);
            }
            let Some(last) = cursor.next.0.checked_sub(1) else { continue };
            let Some(there) = sender.read(id, TxnId(last)) else { continue };
            // The next round may be there in part, see above.
            let next = sender.read(id, cursor.next);
            if self.wants(id, there) && next == Some(there) {
                assert!(seen.covers(&there.versions), "BR-2: {id} as of {last} was not sent");
            }
        }
    }
}

/// The receiver also lists what it never had: with no versions, and with some of nobody's.
fn invent(holdings: &mut link::Holdings, sender: &Cluster, receiver: &Cluster) {
    let link::Holdings { after, through, documents } = holdings;
    let nobody = [(ActorId(uuid::Uuid::nil()), 1)];
    let invented = [VersionVector::default(), nobody.into_iter().collect()];
    let unknown = sender.versions.keys().filter(|id| !receiver.versions.contains_key(id));
    for (id, versions) in unknown.zip(invented.iter().cycle()) {
        let document_id = Bytes::from(id.to_bytes());
        if document_id > *after && through.as_ref().is_none_or(|through| document_id <= *through) {
            documents.push(link::Holding { document_id, versions: versions_bytes(versions) });
        }
    }
}

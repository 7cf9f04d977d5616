//! One node, step by step; and messages to bytes and back.

use std::sync::Arc;
use std::time::Duration;

use anabranch_core::cluster::{Configuration, Epoch};
use anabranch_core::ids::{ActorId, TxnId};
use anabranch_core::keyspace::Position;
use anabranch_schemas::gossip as proto;
use proptest::prelude::*;
use uuid::Uuid;

use super::announce::{Ahead, Announce, Applied, Incarnation, NotReady, Sequence, Version};
use super::dice::Dice;
use super::doubles::{announce, configuration, node, standing};
use super::message::Message;
use super::state::{Settings, State};
use super::suspicion::{Moment, Suspicion};
use super::wire::{self, ClusterMark, WireError};

fn at(millis: u64) -> Moment {
    Moment(Duration::from_millis(millis))
}

fn three() -> Configuration {
    configuration(1, &[&["a", "b", "c"]], None)
}

fn state_in(configuration: &Configuration) -> State {
    let life = Incarnation(5);
    State::new(node("a"), life, configuration, Settings::default(), Dice::new(1), at(0))
}

fn state() -> State {
    state_in(&three())
}

/// What the node says of itself in a step, to each.
fn own(state: &mut State, millis: u64) -> Vec<(String, u64)> {
    let messages = state.tick(at(millis));
    let bases = messages.into_iter().filter_map(|(to, message)| {
        let own = message.announces.iter().find(|announce| announce.node == node("a"))?;
        Some((to.to_string(), own.standing.applied.base().0))
    });
    bases.collect()
}

fn from(name: &str, announces: Vec<Announce>) -> Message {
    let announces = announces.into_iter().map(Arc::new).collect();
    Message { announces, ..Message::ping(node(name)) }
}

fn to_both(base: u64) -> Vec<(String, u64)> {
    vec![("b".to_owned(), base), ("c".to_owned(), base)]
}

#[test]
fn a_base_that_moves_is_sent_at_once_and_not_too_often() {
    let mut state = state();
    assert!(state.announce(standing(1, 10)));
    assert_eq!(own(&mut state, 1_000), to_both(10));
    assert!(!state.announce(standing(1, 10)));
    assert_eq!(state.due(), at(1_040));
    assert!(state.announce(standing(1, 11)));
    assert_eq!(state.due(), at(1_020));
    assert_eq!(own(&mut state, 1_019), []);
    assert_eq!(own(&mut state, 1_020), to_both(11));
    let mut durable = standing(1, 11);
    durable.durable = TxnId(11);
    assert!(state.announce(durable));
    assert_eq!(state.due(), at(1_060), "only what may be read is urgent");
    for millis in (1_060..2_000).step_by(40) {
        state.tick(at(millis));
    }
    assert!(state.announce(standing(1, 12)));
    assert!(state.due() <= at(1_980), "steps in which nothing was sent do not make it wait");
}

#[test]
fn rumors_end_and_only_silent_peers_are_pinged() {
    let mut state = state();
    state.announce(standing(1, 10));
    let mut sent = 0;
    for millis in (0..4_000).step_by(10) {
        state.hear(&node("b"), at(millis));
        for (to, message) in state.tick(at(millis)) {
            assert!(message.announces.is_empty() || millis < 400, "{millis}");
            assert!(message != Message::ping(node("a")) || to == node("c"), "{to} {millis}");
            if to == node("c") {
                sent = millis;
            }
        }
        assert!(millis - sent <= 290, "c was silent and not pinged at {millis}");
    }
}

#[test]
fn strangers_are_ignored_and_so_is_what_is_said_of_them() {
    let mut state = state();
    let received = state.receive(from("x", vec![announce("b", 1, 10)]), at(0));
    assert!(!received.has_news && received.answer.is_none());
    let received = state.receive(from("b", vec![announce("x", 1, 10)]), at(0));
    assert!(!received.has_news);
    assert_eq!(state.announces().count(), 0);
    assert_eq!(state.suspicion(&node("x"), at(0)), Suspicion::FULL);
    assert_eq!(state.suspicion(&node("a"), at(9_000)), Suspicion::NONE);
}

#[test]
fn silence_begins_when_a_node_was_heard() {
    let mut state = state();
    let silence = |state: &State, name| state.silence(&node(name), at(5_000));
    assert_eq!(
        ["a", "b", "x"].map(|name| silence(&state, name)),
        [Duration::ZERO, Duration::MAX, Duration::MAX,]
    );
    state.receive(from("b", vec![]), at(2_000));
    assert_eq!(silence(&state, "b"), Duration::from_secs(3));
    assert_eq!(silence(&state, "c"), Duration::MAX);
}

#[test]
fn a_higher_epoch_is_told_and_taken_in() {
    let mut state = state();
    let mut newer = announce("b", 1, 10);
    newer.standing.epoch = Epoch(3);
    assert!(state.receive(from("c", vec![newer]), at(0)).has_news);
    assert_eq!((state.epoch(), state.heard_epoch()), (Epoch(1), Epoch(3)));
    state.configure(&configuration(3, &[&["a", "c"], &["d"]], None), at(10));
    assert_eq!((state.epoch(), state.heard_epoch()), (Epoch(3), Epoch(3)));
    assert_eq!(state.announces().count(), 0, "b is no member any more");
    assert!(state.receive(from("d", vec![]), at(20)).answer.is_none());
    assert_eq!(state.suspicion(&node("d"), at(20)), Suspicion::NONE);
    state.configure(&three(), at(30));
    assert_eq!(state.epoch(), Epoch(3), "an older one is not taken in");
    assert_eq!(state.suspicion(&node("b"), at(30)), Suspicion::FULL);
}

#[test]
fn a_digest_is_answered_with_what_its_sender_lacks() {
    let mut state = state();
    state.announce(standing(1, 4));
    state.receive(from("b", vec![announce("b", 2, 10)]), at(0));
    let known = |name, sequence| (node(name), announce(name, sequence, 0).version);
    let digest = vec![known("b", 1), (node("a"), Version::default())];
    let answer = state.receive(Message { digest, ..Message::ping(node("c")) }, at(0)).answer;
    let answer = answer.unwrap();
    let names: Vec<_> = answer.announces.iter().map(|announce| announce.node.as_str()).collect();
    assert_eq!(names, ["b", "a"]);
    let digest = vec![known("b", 2)];
    let answer = state.receive(Message { digest, ..Message::ping(node("c")) }, at(0)).answer;
    assert_eq!(answer, Some(Message::ping(node("a"))));
}

#[test]
fn who_is_known_by_a_later_life_takes_a_still_later_one() {
    let mut state = state();
    state.announce(standing(1, 4));
    let own = || state_version(&state);
    assert_eq!(own().incarnation, Incarnation(5));
    let echo = Announce { version: own(), ..announce("a", 1, 9) };
    assert!(!state.receive(from("b", vec![echo]), at(0)).is_outbid);
    let mut later = announce("a", 17, 9);
    later.version.incarnation = Incarnation(8);
    assert!(state.receive(from("b", vec![later.clone()]), at(0)).is_outbid);
    let own = state.announces().next().unwrap();
    assert_eq!(own.version, Version { incarnation: Incarnation(9), sequence: Sequence(1) });
    assert_eq!(own.standing, standing(1, 4), "what it says is what it has now");
    assert!(!state.receive(from("b", vec![later]), at(0)).is_outbid);
    state.announce(standing(1, 5));
    assert_eq!(state_version(&state).sequence, Sequence(2));
}

fn state_version(state: &State) -> Version {
    state.announces().next().unwrap().version
}

#[test]
fn who_was_cut_off_asks_for_what_it_missed_at_once() {
    let mut state = state();
    let mut digests = |from: u64, to: u64| {
        let mut count = 0;
        for millis in (from..to).step_by(40) {
            let messages = state.tick(at(millis));
            count += messages.iter().filter(|(_, message)| !message.digest.is_empty()).count();
        }
        state.hear(&node("b"), at(to));
        count
    };
    assert_eq!(digests(0, 200), 3, "at the start");
    assert_eq!(digests(200, 400), 1);
    assert!((3..=4).contains(&digests(400, 1_300)), "now and then");
    assert!((12..=14).contains(&digests(1_300, 5_000)), "now and then");
    assert_eq!(digests(5_000, 5_200), 3, "it heard nobody for long");
}

fn mark() -> ClusterMark {
    ClusterMark::of(ActorId(Uuid::from_u128(0x0102_0304 << 96)))
}

fn applied() -> impl Strategy<Value = Applied> {
    let ahead = (0_u64..4, 1_u64..9, prop::collection::vec((1_u64..9, 1_u64..9), 0..3));
    (any::<u32>(), prop::collection::vec(ahead, 0..5), any::<bool>()).prop_map(
        |(base, pieces, is_cut)| {
            let mut position = 0;
            let ahead = pieces.into_iter().map(|(gap, length, steps)| {
                let first = position + gap;
                position = first + length;
                let here = u64::from(base) + 1 + gap;
                let mut end = here;
                let detached = steps.into_iter().map(|(gap, length)| {
                    let start = end + gap;
                    end = start + length;
                    TxnId(start)..TxnId(end)
                });
                let detached = detached.collect();
                let (first, last) = (Position(first), Position(position - 1));
                Ahead { first, last, base: TxnId(here), detached }
            });
            Applied::from_parts(TxnId(base.into()), ahead.collect(), is_cut).unwrap()
        },
    )
}

fn announces() -> impl Strategy<Value = Announce> {
    let life = 0..=Incarnation::MAX.0;
    let numbers = (life, 1..=u64::MAX, any::<u64>(), any::<u64>(), any::<u64>());
    let whole = (any::<u64>(), any::<Option<u64>>(), any::<Option<String>>());
    ("[a-z][a-z0-9]{0,62}", numbers, applied(), whole).prop_map(
        |(
            name,
            (life, sequence, epoch, durable, gc),
            applied,
            (history_from, copying, not_ready),
        )| {
            let mut announce = announce(&name, sequence, 0);
            announce.version.incarnation = Incarnation(life);
            announce.standing.epoch = Epoch(epoch);
            announce.standing.applied = applied;
            announce.standing.durable = TxnId(durable);
            announce.standing.gc_timestamp = TxnId(gc);
            announce.standing.history_from = TxnId(history_from);
            announce.standing.copying = copying;
            announce.standing.is_whole = history_from % 2 == 0;
            announce.standing.not_ready = not_ready.map(NotReady::new);
            announce
        },
    )
}

proptest! {
    #[test]
    fn messages_read_back(
        announces in prop::collection::vec(announces(), 0..5),
        digest in prop::collection::vec(("[a-z]{1,63}", any::<u64>(), any::<u64>()), 0..5),
    ) {
        let known = |(name, life, sequence): (String, u64, u64)| {
            let (incarnation, sequence) = (Incarnation(life), Sequence(sequence));
            (node(&name), Version { incarnation, sequence })
        };
        let message = Message {
            from: node("a"),
            announces: announces.into_iter().map(Arc::new).collect(),
            digest: digest.into_iter().map(known).collect(),
        };
        let sent = wire::encode(&message, mark());
        prop_assert_eq!(proto::encoded_bytes(&sent), wire::message_bytes(&message));
        let news: usize = message.announces.iter().map(|one| wire::announce_bytes(one)).sum();
        let known: usize = message.digest.iter().map(|(node, _)| wire::known_bytes(node)).sum();
        let empty = wire::message_bytes(&Message::ping(node("a")));
        prop_assert!(wire::message_bytes(&message) <= empty + news + known);
        prop_assert_eq!(wire::decode(sent, mark()), Ok(message));
    }

    /// Whatever comes is taken or refused, and what is taken reads back.
    #[test]
    fn nonsense_is_refused(
        name in "[a-zA-Z.]{0,3}",
        sequence in 0_u64..2,
        base in 0_u64..9,
        ahead in prop::collection::vec(
            (0_u64..9, 0_u64..9, 0_u64..9, prop::collection::vec(0_u64..20, 0..5)), 0..4
        ),
    ) {
        let ahead = ahead.into_iter().map(|(first, last, base, detached)| {
            proto::Ahead { first, last, base, detached }
        });
        let ahead = ahead.collect();
        let announce = proto::Announce { node: name, sequence, base, ahead, ..Default::default() };
        let sent = sent(vec![announce]);
        if let Ok(message) = wire::decode(sent.clone(), mark()) {
            prop_assert_eq!(wire::encode(&message, mark()), sent);
        }
    }
}

fn sent(announces: Vec<proto::Announce>) -> proto::Message {
    proto::Message { from: "a".to_owned(), cluster: 0x0102_0304, announces, digest: vec![] }
}

#[test]
fn refusals_say_why() {
    let good = proto::Announce { node: "b".to_owned(), sequence: 1, ..Default::default() };
    assert!(wire::decode(sent(vec![good.clone()]), mark()).is_ok());
    let refused = |change: &dyn Fn(&mut proto::Announce)| {
        let mut announce = good.clone();
        change(&mut announce);
        wire::decode(sent(vec![announce]), mark()).unwrap_err().to_string()
    };
    let ahead = |first, last, base, detached: &[u64]| proto::Ahead {
        first,
        last,
        base,
        detached: detached.to_vec(),
    };
    let name = refused(&|announce| announce.node = "B".to_owned());
    assert!(name.contains("'B'"), "{name}");
    assert!(refused(&|announce| announce.sequence = 0).contains("sequence"));
    for (pieces, why) in [
        (vec![ahead(2, 1, 1, &[])], "empty"),
        (vec![ahead(0, 1, 1, &[]), ahead(1, 2, 1, &[])], "overlap"),
        (vec![ahead(0, 1, 0, &[])], "no more than the base"),
        (vec![ahead(0, 1, 1, &[3])], "no end"),
        (vec![ahead(0, 1, 1, &[3, 3])], "detached"),
        (vec![ahead(0, 1, 1, &[1, 3])], "detached"),
        (vec![ahead(0, 1, 1, &[3, 4, 4, 5])], "detached"),
        (vec![ahead(0, 1, 1, &[]); 17], "more than"),
    ] {
        let refusal = refused(&|announce| announce.ahead = pieces.clone());
        assert!(refusal.contains(why), "{refusal}");
    }
    let mut foreign = sent(vec![]);
    foreign.cluster += 1;
    assert_eq!(wire::decode(foreign, mark()), Err(WireError::Cluster));
    let mut nameless = sent(vec![]);
    nameless.from.clear();
    assert!(matches!(wire::decode(nameless, mark()), Err(WireError::Node { .. })));
}

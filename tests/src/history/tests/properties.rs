//! What a database that is right may answer is not taken for wrong.

use proptest::prelude::*;

use super::model::{Shape, World};
use crate::history::{Effect, check};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn histories_of_a_database_that_is_right_pass(
        seed in any::<u64>(),
        sessions in 1..8_usize,
        operations in 1..250_usize,
        documents in 1..12_usize,
        servers in 1..4_usize,
    ) {
        let shape = Shape { sessions, operations, documents, servers };
        let world = World::run(seed, &shape);
        let found = check(&world.history());
        prop_assert!(found.is_empty(), "{found:#?}");
    }
}

#[test]
fn what_is_generated_has_something_of_everything() {
    let world = World::run(7, &Shape::default());
    let history = world.history();
    let rounds = history.writes().filter(|write| write.outcome.is_some());
    assert!(rounds.filter(|write| write.changes.len() > 2).count() > 20);
    assert!(history.writes().any(|write| write.outcome.is_none()));
    assert!(history.reads().filter(|read| read.seen.len() > 2).count() > 20);
    for whole in [Effect::Insert, Effect::Delete] {
        let changes = history.writes().flat_map(|write| &write.changes);
        assert!(changes.filter(|change| change.effect == whole).count() > 20, "{whole:?}");
    }
    let taken = history
        .operations()
        .filter(|(_, operation)| matches!(operation.action, crate::history::Action::Take { .. }));
    assert!(taken.count() > 5);
}

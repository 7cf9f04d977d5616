//! Random histories against an obvious model: maps of what was committed (IN-1, IN-2).

use std::collections::BTreeMap;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

const PARTITIONS: u16 = 2;
/// Writers 0 and 1 have one transactional id: each fences the other.
const IDS: [&str; 3] = ["shared", "shared", "own"];

#[derive(Clone, Debug)]
enum Step {
    Open(usize),
    Begin(usize),
    Append(usize, u16),
    Flush(usize),
    Commit(usize),
    Abort(usize),
    Poll,
    Trim(u16),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let writer = 0..IDS.len();
    prop_oneof![
        2 => writer.clone().prop_map(Step::Open),
        6 => writer.clone().prop_map(Step::Begin),
        12 => (writer.clone(), 0..PARTITIONS).prop_map(|(writer, to)| Step::Append(writer, to)),
        6 => writer.clone().prop_map(Step::Flush),
        6 => writer.clone().prop_map(Step::Commit),
        2 => writer.prop_map(Step::Abort),
        4 => Just(Step::Poll),
        1 => (0..PARTITIONS).prop_map(Step::Trim),
        1 => Just(Step::Restart),
    ]
}

/// A record of an open transaction: its partition, its offset once it was flushed, its text.
type Pending = (u16, Option<Offset>, String);

/// A writer, and what is in its open transaction.
struct Slot {
    writer: Box<dyn Writer>,
    fenced: bool,
    open: Option<Vec<Pending>>,
}

type Partitions = [BTreeMap<Offset, String>; PARTITIONS as usize];

struct World {
    dir: TempDir,
    journal: Option<Arc<EmbeddedJournal>>,
    slots: [Option<Slot>; IDS.len()],
    reader: Option<Box<dyn Reader>>,
    committed: Partitions,
    received: Partitions,
    records: u32,
}

fn at(partition: u16) -> TopicPartition {
    TopicPartition::new("kept", partition)
}

fn flush(writer: &mut dyn Writer, records: &mut [Pending]) -> Result<(), Error> {
    let offsets = writer.flush()?;
    let unflushed = records.iter_mut().filter(|(_, offset, _)| offset.is_none());
    for ((_, offset, _), given) in unflushed.zip(offsets) {
        *offset = Some(given);
    }
    Ok(())
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let journal = open(dir.path());
        kept(&journal);
        let mut world = World {
            dir,
            journal: Some(journal),
            slots: Default::default(),
            reader: None,
            committed: Default::default(),
            received: Default::default(),
            records: 0,
        };
        world.read_from([Offset(0); PARTITIONS as usize]);
        world
    }

    fn journal(&self) -> &EmbeddedJournal {
        self.journal.as_ref().unwrap()
    }

    fn read_from(&mut self, positions: [Offset; PARTITIONS as usize]) {
        let from = (0..PARTITIONS).zip(positions);
        let from: Vec<_> = from.map(|(p, offset)| (at(p), ReadFrom::Offset(offset))).collect();
        self.reader = Some(self.journal().reader(&from).unwrap());
    }

    fn positions(&self) -> [Offset; PARTITIONS as usize] {
        [0, 1].map(|partition| self.reader.as_ref().unwrap().position(&at(partition)).unwrap())
    }

    fn run(&mut self, step: &Step) {
        match step {
            Step::Open(number) => self.open_writer(*number),
            Step::Poll => self.poll(),
            Step::Trim(partition) => {
                // Below the reader, so that it goes on.
                let before = self.positions()[usize::from(*partition)];
                self.journal().trim(&at(*partition), before).unwrap();
                let start = self.journal().bounds(&at(*partition)).unwrap().start;
                assert!(start >= before);
            }
            Step::Restart => {
                let positions = self.positions();
                self.slots = Default::default();
                self.reader = None;
                self.journal = None;
                self.journal = Some(open(self.dir.path()));
                self.read_from(positions);
            }
            Step::Begin(number)
            | Step::Append(number, _)
            | Step::Flush(number)
            | Step::Commit(number)
            | Step::Abort(number) => {
                let Some(mut slot) = self.slots[*number].take() else { return };
                self.write(&mut slot, step);
                self.slots[*number] = Some(slot);
            }
        }
    }

    fn open_writer(&mut self, number: usize) {
        let writer = writer(self.journal(), IDS[number]);
        for (other, slot) in self.slots.iter_mut().enumerate() {
            if let Some(slot) = slot
                && IDS[other] == IDS[number]
            {
                slot.fenced = true;
            }
        }
        self.slots[number] = Some(Slot { writer, fenced: false, open: None });
    }

    fn write(&mut self, slot: &mut Slot, step: &Step) {
        let Slot { writer, fenced, open } = slot;
        let result = match (step, &mut *open) {
            (Step::Begin(_), None) => writer.begin(),
            (Step::Append(_, partition), Some(records)) => {
                let text = format!("{}", self.records);
                self.records += 1;
                records.push((*partition, None, text.clone()));
                writer.append(record(&at(*partition), &text, Some(&text)))
            }
            (Step::Flush(_), Some(records)) => flush(writer.as_mut(), records),
            (Step::Commit(_), Some(records)) => {
                flush(writer.as_mut(), records).and_then(|()| writer.commit())
            }
            (Step::Abort(_), Some(_)) => writer.abort(),
            _ => return,
        };
        if *fenced {
            assert!(matches!(result, Err(Error::Fenced(_))), "{step:?} of a zombie: {result:?}");
            *open = None;
            return;
        }
        result.unwrap();
        match step {
            Step::Begin(_) => *open = Some(Vec::new()),
            Step::Abort(_) => *open = None,
            Step::Commit(_) => self.learn(open.take().unwrap()),
            _ => {}
        }
    }

    fn learn(&mut self, records: Vec<Pending>) {
        for (partition, offset, text) in records {
            let offset = offset.expect("it was flushed before the commit");
            self.committed[usize::from(partition)].insert(offset, text);
        }
    }

    fn poll(&mut self) {
        loop {
            let before = self.positions();
            let records = self.reader.as_mut().unwrap().poll(Duration::ZERO).unwrap();
            // A poll that passed holes only returns nothing, and may not have looked everywhere.
            if records.is_empty() && self.positions() == before {
                break;
            }
            for record in records {
                let received = &mut self.received[usize::from(record.at.partition.0)];
                let text = String::from_utf8(record.value.unwrap().to_vec()).unwrap();
                assert!(
                    received.last_key_value().is_none_or(|(last, _)| *last < record.offset),
                    "{text} came out of order"
                );
                received.insert(record.offset, text);
            }
        }
        for (partition, end) in (0..PARTITIONS).zip(self.positions()) {
            let index = usize::from(partition);
            let visible: Vec<_> = self.committed[index].range(..end).collect();
            assert_eq!(self.received[index].iter().collect::<Vec<_>>(), visible);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..Default::default() })]

    #[test]
    fn readers_get_what_was_committed_whole_once_and_in_order(
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut world = World::new();
        for step in &steps {
            world.run(step);
        }
        // When nothing is open any more, everything is visible.
        world.slots = Default::default();
        world.poll();
        for (partition, end) in (0..PARTITIONS).zip(world.positions()) {
            assert_eq!(world.journal().bounds(&at(partition)).unwrap().end, end);
            assert_eq!(world.received[usize::from(partition)], world.committed[usize::from(partition)]);
        }
    }
}

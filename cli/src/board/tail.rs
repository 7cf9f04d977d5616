//! The commit records that were written last, as far as somebody asked for them: how far parts of a
//! cluster are behind is asked again and again, of several parts that are nearly equally far, and
//! is answered from one reader.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anabranch_journal::{
    Bounds, Error as JournalError, Journal, Offset, ReadFrom, Reader, Record, TopicPartition,
};
use anabranch_runtime::clock::now_millis;
use anabranch_schemas::records::TxnsRecord;

use super::POLL;

/// Commit records are counted one by one up to about so many, and for as long.
const COUNTED: u64 = 10_000;
const COUNT_FOR: Duration = Duration::from_secs(1);
/// By so much another part may be behind the first one that is asked about.
const BEFORE: u64 = 1_000;

/// The last commit records of a log.
pub(super) struct Tail {
    at: TopicPartition,
    read: Option<Read>,
    /// The last position that was too far behind to count from there, and when what comes next was
    /// written: mostly of a part that stands still.
    far: Option<(u64, Option<u64>)>,
}

/// What was read of them.
struct Read {
    reader: Box<dyn Reader>,
    /// All from this offset on are here, up to where the reader stands.
    from: u64,
    /// Offset, and when it was written.
    written: VecDeque<(u64, Option<u64>)>,
}

impl Tail {
    /// Of which nothing was read yet.
    pub(super) fn new(txns: TopicPartition) -> Self {
        Tail { at: txns, read: None, far: None }
    }

    /// How many transactions there are from `next` on, and how many seconds ago the first was
    /// written. Of very many it is said how many there are at most. Blocks.
    pub(super) fn behind(
        &mut self,
        journal: &dyn Journal,
        next: u64,
    ) -> Result<(u64, f64), JournalError> {
        let bounds = journal.bounds(&self.at)?;
        let most = bounds.end.0.saturating_sub(next);
        let (count, since) = match most {
            0 => (0, None),
            _ if most > COUNTED => (most, self.written_after(journal, next)?),
            _ => self.count(journal, next, bounds)?,
        };
        let ms = since.map_or(0, |since| now_millis().saturating_sub(since));
        Ok((count, Duration::from_millis(ms).as_secs_f64()))
    }

    /// When the first transaction from `next` on was written.
    fn written_after(
        &mut self,
        journal: &dyn Journal,
        next: u64,
    ) -> Result<Option<u64>, JournalError> {
        if let Some((_, written)) = self.far.filter(|(far, _)| *far == next) {
            return Ok(written);
        }
        let mut reader = self.open(journal, next)?;
        let begun = Instant::now();
        while begun.elapsed() <= COUNT_FOR {
            if let Some(record) = reader.poll(POLL)?.first() {
                let written = written_at(record);
                self.far = Some((next, written));
                return Ok(written);
            }
        }
        Ok(None)
    }

    /// Counts them one by one.
    fn count(
        &mut self,
        journal: &dyn Journal,
        next: u64,
        bounds: Bounds,
    ) -> Result<(u64, Option<u64>), JournalError> {
        let mut read = match self.read.take() {
            Some(read) if read.goes_on_to(&self.at, next) => read,
            _ => {
                let from = next.saturating_sub(BEFORE).max(bounds.start.0.min(next));
                Read { reader: self.open(journal, from)?, from, written: VecDeque::new() }
            }
        };
        // After an error it is of no more use.
        let is_whole = read.read_to(&self.at, bounds.end)?;
        let first = read.written.partition_point(|(offset, _)| *offset < next);
        let since = read.written.get(first).and_then(|(_, written)| *written);
        let count = if is_whole {
            u64::try_from(read.written.len() - first).unwrap_or(u64::MAX)
        } else {
            bounds.end.0 - next
        };
        read.forget();
        self.read = Some(read);
        Ok((count, since))
    }

    fn open(&self, journal: &dyn Journal, from: u64) -> Result<Box<dyn Reader>, JournalError> {
        journal.reader(&[(self.at.clone(), ReadFrom::Offset(Offset(from)))])
    }
}

impl Read {
    /// Whether it has, or comes to, all from `next` on without passing over very many.
    fn goes_on_to(&self, at: &TopicPartition, next: u64) -> bool {
        let position = self.reader.position(at).map_or(self.from, |position| position.0);
        self.from <= next && next <= position.saturating_add(COUNTED)
    }

    /// Reads on; whether it has come to the end, for which there is not much time.
    fn read_to(&mut self, at: &TopicPartition, end: Offset) -> Result<bool, JournalError> {
        let begun = Instant::now();
        while self.reader.position(at).is_none_or(|position| position < end) {
            if begun.elapsed() > COUNT_FOR {
                return Ok(false);
            }
            let records = self.reader.poll(POLL)?;
            self.written.extend(records.iter().map(|record| (record.offset.0, written_at(record))));
        }
        Ok(true)
    }

    /// Drops the oldest, if they are many.
    fn forget(&mut self) {
        while self.written.len() as u64 > 2 * COUNTED {
            if let Some((offset, _)) = self.written.pop_front() {
                self.from = offset + 1;
            }
        }
    }
}

fn written_at(record: &Record) -> Option<u64> {
    let read = TxnsRecord::decode(record.value.as_deref()?).ok()?;
    Some(read.hlc().millis())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use anabranch_core::hlc::Hlc;
    use anabranch_core::ids::{ActorId, AppId, RoundId};
    use anabranch_journal::doubles::{Fate, FaultyJournal};
    use anabranch_journal::embedded::{EmbeddedConfig, EmbeddedJournal};
    use anabranch_journal::{Cleanup, NewRecord, TopicSpec, TransactionalId, Writer};
    use anabranch_schemas::encode;
    use anabranch_schemas::records::Commit;
    use bytes::Bytes;
    use uuid::Uuid;

    use super::*;

    fn txns() -> TopicPartition {
        TopicPartition::new("east.txns", 0)
    }

    /// A log, and how many readers of it were made.
    fn log(dir: &tempfile::TempDir) -> (Arc<dyn Journal>, Arc<AtomicUsize>) {
        let mut config = EmbeddedConfig::new(dir.path());
        config.sync = false;
        let inner: Arc<dyn Journal> = EmbeddedJournal::open(config).unwrap();
        let topic = TopicSpec {
            name: "east.txns".to_owned().into(),
            partitions: 1,
            cleanup: Cleanup::Delete { retention_ms: None },
            max_record_bytes: 1 << 20,
        };
        inner.ensure_topics(&[topic]).unwrap();
        let readers = Arc::new(AtomicUsize::new(0));
        let made = Arc::clone(&readers);
        let journal = FaultyJournal::new(inner, |_| Fate::Done).with_readers(move |inner, from| {
            made.fetch_add(1, Ordering::SeqCst);
            inner.reader(from)
        });
        (Arc::new(journal), readers)
    }

    fn write(writer: &mut dyn Writer, count: usize) -> Vec<u64> {
        let commit = Commit {
            round: RoundId(Uuid::nil()),
            app: AppId(Uuid::nil()),
            origin: ActorId(Uuid::nil()),
            origin_txn: None,
            hlc: Hlc::from_millis(now_millis() - 60_000),
            digest: Vec::new(),
            atomic: false,
            mutations: 0,
            parts: Vec::new(),
        };
        writer.begin().unwrap();
        for _ in 0..count {
            let (at, value) = (txns(), Some(encode(&commit)));
            writer.append(NewRecord { at, key: Bytes::new(), value }).unwrap();
        }
        let offsets = writer.flush().unwrap();
        writer.commit().unwrap();
        offsets.into_iter().map(|offset| offset.0).collect()
    }

    #[test]
    fn parts_that_are_nearly_equally_far_are_answered_from_one_reader() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, readers) = log(&dir);
        let mut writer = journal.writer(&TransactionalId::from("test")).unwrap();
        let first = write(&mut *writer, 100);
        let mut tail = Tail::new(txns());
        let mut behind = |next: u64| tail.behind(&*journal, next).unwrap();
        assert_eq!(behind(first[90]).0, 10);
        let (count, seconds) = behind(first[40]);
        assert_eq!(count, 60);
        assert!((60.0..120.0).contains(&seconds), "{seconds}");
        assert_eq!(behind(first[99] + 1).0, 0);
        let second = write(&mut *writer, 5);
        assert_eq!([behind(first[95]).0, behind(second[0]).0, behind(second[4]).0], [10, 5, 1]);
        assert_eq!(readers.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn one_that_stands_still_far_behind_costs_no_reader_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, readers) = log(&dir);
        let mut writer = journal.writer(&TransactionalId::from("test")).unwrap();
        let all = write(&mut *writer, 12_000);
        let mut tail = Tail::new(txns());
        let end = journal.bounds(&txns()).unwrap().end.0;
        for _ in 0..3 {
            let (count, seconds) = tail.behind(&*journal, all[0]).unwrap();
            assert_eq!((count, seconds >= 60.0), (end - all[0], true));
            assert_eq!(tail.behind(&*journal, all[11_000]).unwrap().0, 1_000);
        }
        assert_eq!(readers.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn what_the_log_has_trimmed_is_asked_for_by_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, _) = log(&dir);
        let mut writer = journal.writer(&TransactionalId::from("test")).unwrap();
        let all = write(&mut *writer, 100);
        journal.trim(&txns(), Offset(all[50])).unwrap();
        let mut tail = Tail::new(txns());
        assert_eq!(tail.behind(&*journal, all[90]).unwrap().0, 10);
        assert!(tail.behind(&*journal, all[10]).is_err(), "a part needs what is gone");
        assert_eq!(tail.behind(&*journal, all[90]).unwrap().0, 10);
    }
}

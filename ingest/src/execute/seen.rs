//! Transactions that a client says it has seen. One that the log does not have is refused soon: waiting for
//! it longer would not help.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anabranch_core::ids::TxnId;
use anabranch_journal::{Journal, TopicPartition};
use anabranch_runtime::tasks::waiting;
use anabranch_schemas::topics::ClusterName;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use crate::error::{Code, Refusal};
use crate::store::At;

/// How long a transaction is waited for before the log is asked whether it has it: stores are rarely
/// further behind.
const LOOK_AFTER: Duration = Duration::from_millis(50);

/// How far the log goes, as far as anybody had to know.
#[derive(Clone)]
pub(crate) struct LogEnd {
    journal: Arc<dyn Journal>,
    txns: TopicPartition,
    /// The log has every transaction below this, if it ever was one.
    known: Arc<AtomicU64>,
    /// When the log was asked last. One asks it at a time, for all who wait: the log may be slow, and
    /// there are only so many threads to wait for it.
    asked: Arc<Mutex<Option<Instant>>>,
}

impl LogEnd {
    pub(crate) fn new(journal: Arc<dyn Journal>, cluster: &ClusterName) -> Self {
        let txns = TopicPartition::new(cluster.txns(), 0);
        LogEnd { journal, txns, known: Arc::default(), asked: Arc::default() }
    }

    /// What is read as of `at`, unless that is a transaction which the log does not have.
    pub(crate) async fn seen<T>(
        &self,
        at: At,
        read: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<T, Refusal> {
        let At::Newest(Some(txn)) = at else { return read.await };
        let mut read = pin!(read);
        let result = tokio::select! {
            biased;
            result = &mut read => result,
            is_beyond = self.is_before(txn) => match is_beyond {
                true => return Err(unknown(txn)),
                false => read.await,
            },
        };
        if result.is_ok() {
            self.note(txn.next());
        }
        result
    }

    /// Whether the log ends before this transaction. That it cannot be asked is no answer.
    async fn is_before(&self, txn: TxnId) -> bool {
        sleep(LOOK_AFTER).await;
        let came = Instant::now();
        if self.has(txn) {
            return false;
        }
        let mut asked = Arc::clone(&self.asked).lock_owned().await;
        if self.has(txn) {
            return false;
        }
        // Who was asked since can have told of it.
        if asked.is_some_and(|asked| asked >= came) {
            return true;
        }
        let (journal, txns) = (Arc::clone(&self.journal), self.txns.clone());
        // It is held until there is an answer, also if nobody waits for that any more.
        let asking = waiting(move || {
            let now = Instant::now();
            let written = journal.written(&txns);
            if written.is_ok() {
                *asked = Some(now);
            }
            written
        });
        match asking.await {
            Ok(Ok(written)) => {
                self.note(TxnId(written.0));
                !self.has(txn)
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "the end of the log could not be found");
                false
            }
            Err(_shutting_down) => false,
        }
    }

    fn has(&self, txn: TxnId) -> bool {
        txn.0 < self.known.load(Ordering::Relaxed)
    }

    /// The log has everything below this.
    fn note(&self, next: TxnId) {
        self.known.fetch_max(next.0, Ordering::Relaxed);
    }
}

fn unknown(txn: TxnId) -> Refusal {
    let message = format!("there is no transaction {txn} in this cluster");
    Refusal::new(Code::TransactionUnknown, message)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::sync::mpsc;

    use anabranch_core::keyspace::SliceCount;
    use anabranch_journal::doubles::{Fate, FaultyJournal, Step};
    use anabranch_journal::memory::MemoryJournal;
    use anabranch_journal::{Error, NewRecord, TransactionalId, Writer, cluster_topics};
    use bytes::Bytes;
    use futures::future::join_all;

    use super::*;

    fn name() -> ClusterName {
        "east".parse().unwrap()
    }

    fn journal() -> Arc<dyn Journal> {
        let journal = MemoryJournal::new();
        journal.ensure_topics(&cluster_topics(&name(), SliceCount::default(), None)).unwrap();
        Arc::new(journal)
    }

    /// Writes a commit record in a transaction that stays open.
    fn write(journal: &dyn Journal, id: &str) -> (Box<dyn Writer>, TxnId) {
        let mut writer = journal.writer(&TransactionalId::from(id)).unwrap();
        let at = TopicPartition::new(name().txns(), 0);
        writer.begin().unwrap();
        writer.append(NewRecord { at, key: Bytes::new(), value: Some(Bytes::new()) }).unwrap();
        let txn = TxnId(writer.flush().unwrap()[0].0);
        (writer, txn)
    }

    /// What comes of a read that takes longer than a transaction is waited for.
    async fn read_slowly(log_end: &LogEnd, txn: TxnId) -> Result<(), Code> {
        let read = async {
            sleep(3 * LOOK_AFTER).await;
            Ok(())
        };
        let read = log_end.seen(At::Newest(Some(txn)), read).await;
        read.map_err(|refusal| refusal.code())
    }

    #[tokio::test]
    async fn what_an_open_transaction_hides_is_there() {
        let journal = journal();
        let (_open, first) = write(&*journal, "slow");
        let (mut writer, txn) = write(&*journal, "fast");
        writer.commit().unwrap();
        assert!(first < txn);
        let log_end = LogEnd::new(Arc::clone(&journal), &name());
        assert_eq!(read_slowly(&log_end, txn).await, Ok(()));
        // Behind it is only where it ends.
        let next = TxnId(txn.0 + 2);
        assert_eq!(read_slowly(&log_end, next).await, Err(Code::TransactionUnknown));
        let (mut writer, _) = write(&*journal, "fast");
        writer.commit().unwrap();
        assert_eq!(read_slowly(&log_end, next).await, Ok(()), "it is there by now");
    }

    #[tokio::test]
    async fn a_log_that_cannot_be_asked_is_no_reason_to_refuse() {
        let failing = FaultyJournal::new(journal(), |step| match step {
            Step::Written(_) => Fate::Fails(Error::Unavailable("no broker".to_owned())),
            _ => Fate::Done,
        });
        let log_end = LogEnd::new(Arc::new(failing), &name());
        assert_eq!(read_slowly(&log_end, TxnId(9)).await, Ok(()));
    }

    #[tokio::test]
    async fn a_slow_log_is_asked_by_one_at_a_time_and_waited_for_by_none() {
        let asked = Arc::new(AtomicUsize::new(0));
        let (answer, answers) = mpsc::channel::<()>();
        let (count, answers) = (Arc::clone(&asked), parking_lot::Mutex::new(answers));
        let slow = FaultyJournal::new(journal(), move |step| {
            if matches!(step, Step::Written(_)) {
                count.fetch_add(1, Ordering::Relaxed);
                // The end of the test, too.
                let _ = answers.lock().recv();
            }
            Fate::Done
        });
        let log_end = LogEnd::new(Arc::new(slow), &name());
        let reads = join_all((0..50).map(|_| read_slowly(&log_end, TxnId(9)))).await;
        assert!(reads.iter().all(Result::is_ok), "they have what they read");
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        // What was read with is known to be there.
        assert_eq!(read_slowly(&log_end, TxnId(9)).await, Ok(()));
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        drop(answer);
    }

    #[tokio::test]
    async fn one_answer_is_for_all_who_wait_for_it() {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let counting = FaultyJournal::new(journal(), move |step| {
            if matches!(step, Step::Written(_)) {
                count.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(LOOK_AFTER / 2);
            }
            Fate::Done
        });
        let log_end = LogEnd::new(Arc::new(counting), &name());
        let reads = join_all((0..50).map(|_| read_slowly(&log_end, TxnId(9)))).await;
        let refused = reads.iter().filter(|read| **read == Err(Code::TransactionUnknown)).count();
        assert_eq!(refused, 50);
        assert!(asked.load(Ordering::Relaxed) <= 3, "{asked:?} questions");
    }
}

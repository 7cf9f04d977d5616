//! Transactions that a client says it has seen. One that the log does not have is refused soon:
//! waiting for it longer would not help.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anabranch_core::ids::TxnId;
use anabranch_journal::{self as journal, Journal, TopicPartition};
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
    /// The log is written up to here, at least.
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
        tokio::select! {
            biased;
            result = &mut read => result,
            is_beyond = self.is_before(txn) => match is_beyond {
                true => Err(unknown(txn)),
                false => read.await,
            },
        }
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
        let known = Arc::clone(&self.known);
        // Whoever asked may be gone when there is an answer, which is for all who wait: it is noted
        // before the next of them has his turn.
        let asking = waiting(move || {
            let now = Instant::now();
            let written = journal.written(&txns)?;
            known.fetch_max(written.0, Ordering::Release);
            *asked = Some(now);
            Ok::<_, journal::Error>(())
        });
        match asking.await {
            Ok(Ok(())) => !self.has(txn),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the end of the log could not be found");
                false
            }
            Err(_shutting_down) => false,
        }
    }

    fn has(&self, txn: TxnId) -> bool {
        txn.0 < self.known.load(Ordering::Acquire)
    }
}

fn unknown(txn: TxnId) -> Refusal {
    let message = format!("there is no transaction {txn} in this cluster");
    Refusal::new(Code::TransactionUnknown, message)
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::mpsc;

    use anabranch_core::keyspace::SliceCount;
    use anabranch_journal::doubles::{Fate, FaultyJournal, Step};
    use anabranch_journal::memory::MemoryJournal;
    use anabranch_journal::{Error, NewRecord, TransactionalId, Writer, cluster_topics};
    use bytes::Bytes;
    use futures::future::join_all;
    use tokio::sync::watch;

    use super::*;

    /// Longer than a transaction is waited for before the log is asked, and has answered.
    const LONG: Duration = Duration::from_millis(400);

    fn name() -> ClusterName {
        "east".parse().unwrap()
    }

    fn journal() -> Arc<dyn Journal> {
        let journal = MemoryJournal::new();
        journal.ensure_topics(&cluster_topics(&name(), SliceCount::default(), None)).unwrap();
        Arc::new(journal)
    }

    /// One that counts how often it is asked, and does something meanwhile.
    fn asked_journal(
        inner: &Arc<dyn Journal>,
        meanwhile: impl Fn() -> Fate + Send + Sync + 'static,
    ) -> (LogEnd, watch::Receiver<usize>) {
        let (asked, count) = watch::channel(0);
        let journal = FaultyJournal::new(Arc::clone(inner), move |step| match step {
            Step::Written(_) => {
                asked.send_modify(|asked| *asked += 1);
                meanwhile()
            }
            _ => Fate::Done,
        });
        (LogEnd::new(Arc::new(journal), &name()), count)
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

    async fn seen(
        log_end: &LogEnd,
        txn: TxnId,
        read: impl Future<Output = Result<(), Refusal>>,
    ) -> Result<(), Code> {
        let seen = log_end.seen(At::Newest(Some(txn)), read).await;
        seen.map_err(|refusal| refusal.code())
    }

    /// What comes of a read for which there is time to ask the log.
    async fn read_slowly(log_end: &LogEnd, txn: TxnId) -> Result<(), Code> {
        let read = async {
            sleep(LONG).await;
            Ok(())
        };
        seen(log_end, txn, read).await
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
        assert_eq!(seen(&log_end, next, pending()).await, Err(Code::TransactionUnknown));
        let (mut writer, _) = write(&*journal, "fast");
        writer.commit().unwrap();
        assert_eq!(read_slowly(&log_end, next).await, Ok(()), "it is there by now");
    }

    #[tokio::test]
    async fn what_was_read_says_nothing_of_the_log() {
        let log_end = LogEnd::new(journal(), &name());
        let far = TxnId(u64::MAX);
        assert_eq!(seen(&log_end, far, async { Ok(()) }).await, Ok(()));
        assert_eq!(seen(&log_end, far, pending()).await, Err(Code::TransactionUnknown));
    }

    #[tokio::test]
    async fn a_log_that_cannot_be_asked_is_no_reason_to_refuse() {
        let fails = || Fate::Fails(Error::Unavailable("no broker".to_owned()));
        let (log_end, asked) = asked_journal(&journal(), fails);
        assert_eq!(read_slowly(&log_end, TxnId(9)).await, Ok(()));
        assert_eq!(*asked.borrow(), 1);
    }

    #[tokio::test]
    async fn a_slow_log_is_asked_by_one_at_a_time_and_waited_for_by_none() {
        let (answer, answers) = mpsc::channel::<()>();
        let answers = parking_lot::Mutex::new(answers);
        let (log_end, asked) = asked_journal(&journal(), move || {
            // Or the end of the test.
            let _ = answers.lock().recv();
            Fate::Done
        });
        let reads = join_all((0..50).map(|_| read_slowly(&log_end, TxnId(9)))).await;
        assert!(reads.iter().all(Result::is_ok), "they have what they read");
        assert_eq!(*asked.borrow(), 1);
        drop(answer);
    }

    /// Whoever asked has his answer from elsewhere meanwhile, and is gone.
    #[tokio::test]
    async fn an_answer_is_for_all_who_wait_for_it() {
        let journal = journal();
        let (mut writer, txn) = write(&*journal, "lane");
        writer.commit().unwrap();
        let (answer, answers) = mpsc::channel::<()>();
        let answers = parking_lot::Mutex::new(answers);
        let (log_end, asked) = asked_journal(&journal, move || {
            let _ = answers.lock().recv();
            Fate::Done
        });
        let (mut first, all) = (asked.clone(), asked.clone());
        let goes = seen(&log_end, txn, async move {
            first.wait_for(|asked| *asked > 0).await.unwrap();
            // The others wait by now.
            sleep(LONG).await;
            answer.send(()).unwrap();
            Ok(())
        });
        let stay = (0..50).map(|_| {
            let mut first = all.clone();
            let log_end = &log_end;
            seen(log_end, txn, async move {
                first.wait_for(|asked| *asked > 0).await.unwrap();
                sleep(2 * LONG).await;
                Ok(())
            })
        });
        let (gone, stayed) = tokio::join!(goes, join_all(stay));
        assert_eq!(gone, Ok(()));
        assert!(stayed.iter().all(Result::is_ok), "{stayed:?}");
        assert_eq!(*asked.borrow(), 1);
    }
}

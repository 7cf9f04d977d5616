//! Keys as a server follows them in the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anabranch_core::keyspace::SliceCount;
use anabranch_journal::doubles::{Fate, FaultyJournal, Step};
use anabranch_journal::embedded::{EmbeddedConfig, EmbeddedJournal};
use anabranch_journal::metadata::{MetadataStore, follow_keys};
use anabranch_journal::{self as journal, Journal, Offset, Reader, Record};
use anabranch_journal::{TopicPartition, cluster_topics};
use anabranch_runtime::tasks::Shutdown;
use anabranch_schemas::resources::ResourceId;
use anabranch_schemas::topics::ClusterName;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::*;

/// A log that can be away, and how often it was asked in vain.
#[derive(Clone, Default)]
struct Outage {
    is_down: Arc<AtomicBool>,
    failures: Arc<AtomicUsize>,
}

impl Outage {
    fn check(&self) -> Result<(), journal::Error> {
        if self.is_down.load(Ordering::SeqCst) {
            self.failures.fetch_add(1, Ordering::SeqCst);
            return Err(journal::Error::Unavailable("it is down".to_owned()));
        }
        Ok(())
    }
}

/// A reader of such a log.
struct Faltering(Box<dyn Reader>, Outage);

impl Reader for Faltering {
    fn poll(&mut self, timeout: Duration) -> Result<Vec<Record>, journal::Error> {
        self.1.check()?;
        self.0.poll(timeout)
    }

    fn position(&self, at: &TopicPartition) -> Option<Offset> {
        self.0.position(at)
    }
}

/// A server's keys, which it follows in a log, and that log as it is without the outage.
struct Followed {
    keys: Arc<Keys>,
    declared: MetadataStore,
    outage: Outage,
    /// Says so each time that the server has read what is declared.
    read: mpsc::UnboundedReceiver<()>,
    shutdown: Shutdown,
    following: Option<std::thread::JoinHandle<()>>,
    _directory: tempfile::TempDir,
}

impl Followed {
    fn begin() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let log: Arc<dyn Journal> =
            EmbeddedJournal::open(EmbeddedConfig::new(directory.path())).unwrap();
        let cluster: ClusterName = "east".parse().unwrap();
        log.ensure_topics(&cluster_topics(&cluster, SliceCount::default(), None)).unwrap();
        let declared = MetadataStore::open(Arc::clone(&log), &cluster).unwrap();
        let (outage, keys) = (Outage::default(), Arc::new(Keys::new(false)));
        let (of_ends, of_reads) = (outage.clone(), outage.clone());
        let faulty = FaultyJournal::new(log, move |step| match step {
            Step::Bounds(_) => of_ends.check().map_or_else(Fate::Fails, |()| Fate::Done),
            _ => Fate::Done,
        });
        let faulty = faulty.with_readers(move |log, from| {
            of_reads.check()?;
            Ok(Box::new(Faltering(log.reader(from)?, of_reads.clone())))
        });
        let faulty: Arc<dyn Journal> = Arc::new(faulty);
        let (told, read) = mpsc::unbounded_channel();
        let (until, taken) = (Shutdown::new(), Arc::clone(&keys));
        let shutdown = until.clone();
        let following = std::thread::spawn(move || {
            follow_keys(&faulty, &cluster, &until, |declared| {
                taken.replace(declared);
                // Nobody listens any more when the test is over.
                let _ = told.send(());
            });
        });
        let following = Some(following);
        Followed { keys, declared, outage, read, shutdown, following, _directory: directory }
    }

    /// Declares a key as it is to be, or takes it away.
    fn declare(&self, token: &ApiToken, expires_at: Option<&str>, is_there: bool) {
        let key = declared(token, 1, expires_at);
        let place = ResourceId::Key(key.app, key.name.clone()).key();
        let before = self.declared.get(&place).unwrap().map(|entry| entry.version);
        let resource = Resource::Key { app: key.app, name: key.name, spec: key.spec };
        let after = is_there.then(|| resource.to_json());
        self.declared.compare_and_set(&place, before, after).unwrap();
    }

    /// Waits until the server has read what is declared once more.
    async fn has_read(&mut self) {
        timeout(Duration::from_secs(10), self.read.recv()).await.expect("in time").unwrap();
    }

    async fn code(&self, token: &ApiToken) -> Option<Code> {
        code(&self.keys, 1, &bearer(&token.reveal())).await
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.shutdown.begin();
        let ended = self.following.take().expect("it is dropped once").join();
        assert!(ended.is_ok() || std::thread::panicking(), "it follows to the end");
    }
}

/// Nothing goes on as it was for a while: the first request after the change was read is refused.
#[tokio::test]
async fn the_next_request_after_a_change_was_read_goes_by_it() {
    let mut server = Followed::begin();
    server.has_read().await;
    let [token, other] = [(); 2].map(|()| ApiToken::draw(name("till")));
    assert_eq!(server.code(&token).await, UNAUTHENTICATED);
    server.declare(&token, None, true);
    server.has_read().await;
    assert_eq!(server.code(&token).await, None);
    let caller = asked(&server.keys, 1, &bearer(&token.reveal())).await.unwrap();
    // Its secret is another one.
    server.declare(&other, None, true);
    server.has_read().await;
    assert_eq!(server.code(&token).await, UNAUTHENTICATED);
    assert_eq!(server.code(&other).await, None);
    assert!(caller.check_current().is_err(), "who is at something is told, too");
    // It is over.
    server.declare(&other, Some("2020-01-01T00:00:00Z"), true);
    server.has_read().await;
    assert_eq!(server.code(&other).await, UNAUTHENTICATED);
    server.declare(&other, None, true);
    server.has_read().await;
    assert_eq!(server.code(&other).await, None);
    // It is revoked.
    server.declare(&other, None, false);
    server.has_read().await;
    assert_eq!(server.code(&other).await, UNAUTHENTICATED);
}

#[tokio::test]
async fn a_server_whose_log_is_away_goes_by_the_keys_that_it_knew() {
    let mut server = Followed::begin();
    let [token, other] = ["till", "other"].map(|text| ApiToken::draw(name(text)));
    server.has_read().await;
    server.declare(&token, None, true);
    server.has_read().await;
    assert_eq!(server.code(&token).await, None);
    server.outage.is_down.store(true, Ordering::SeqCst);
    // More than once: it has given up what it had open, and nothing can be opened.
    until(|| server.outage.failures.load(Ordering::SeqCst) >= 3).await;
    server.declare(&token, None, false);
    server.declare(&other, None, true);
    assert_eq!(server.code(&token).await, None, "it cannot know that it is revoked");
    assert_eq!(server.code(&other).await, UNAUTHENTICATED);
    server.outage.is_down.store(false, Ordering::SeqCst);
    server.has_read().await;
    assert_eq!(server.code(&token).await, UNAUTHENTICATED);
    assert_eq!(server.code(&other).await, None);
}

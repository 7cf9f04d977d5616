//! Connections over which bytes go in both directions, in their order, each after a while.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex, split};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::network::Network;

/// How many bytes are on their way at most, in one direction.
const ROOM: usize = 8 << 10;

/// Who listens for connections.
pub(super) type Listening = Arc<Mutex<BTreeMap<String, mpsc::UnboundedSender<SimulatedStream>>>>;

/// One end of a connection.
pub struct SimulatedStream {
    /// The process at the other end.
    pub peer: String,
    /// What this end reads and writes.
    pub stream: DuplexStream,
}

/// Takes connections.
pub struct Accepting(mpsc::UnboundedReceiver<SimulatedStream>);

impl Accepting {
    /// The next one.
    pub async fn accept(&mut self) -> SimulatedStream {
        match self.0.recv().await {
            Some(stream) => stream,
            // Another one listens under this name.
            None => std::future::pending().await,
        }
    }
}

impl Network {
    /// Listens for connections under a name, instead of whoever did before.
    pub fn accept_streams(&self, name: &str) -> Accepting {
        let (connected, accepting) = mpsc::unbounded_channel();
        self.listening().lock().insert(name.to_owned(), connected);
        Accepting(accepting)
    }

    /// Connects one process to another.
    ///
    /// # Errors
    /// If nobody listens there.
    pub async fn connect(&self, from: &str, to: &str) -> io::Result<SimulatedStream> {
        sleep(self.delay()).await;
        self.opened(from, to).await;
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let connected = self.listening().lock().get(to).cloned().ok_or_else(refused)?;
        let (near, near_end) = duplex(ROOM);
        let (far, far_end) = duplex(ROOM);
        let accepted = SimulatedStream { peer: from.to_owned(), stream: far };
        connected.send(accepted).map_err(|_| refused())?;
        let (from_near, to_near) = split(near_end);
        let (from_far, to_far) = split(far_end);
        let names = (from.to_owned(), to.to_owned());
        tokio::spawn(self.clone().forward(from_near, to_far, names.clone()));
        tokio::spawn(self.clone().forward(from_far, to_near, (names.1, names.0)));
        Ok(SimulatedStream { peer: to.to_owned(), stream: near })
    }

    /// Forwards bytes one way until one of the ends is gone.
    async fn forward(
        self,
        mut source: impl AsyncRead + Unpin,
        mut sink: impl AsyncWrite + Unpin,
        (from, to): (String, String),
    ) {
        let mut bytes = vec![0; ROOM];
        while let Ok(count) = source.read(&mut bytes).await {
            sleep(self.delay()).await;
            self.opened(&from, &to).await;
            let is_over = count == 0 || sink.write_all(&bytes[..count]).await.is_err();
            if is_over {
                break;
            }
        }
        // Whoever reads sees the end only now.
        let _ = sink.shutdown().await;
    }
}

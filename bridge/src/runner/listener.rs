//! Accepts connections, hears whom they are for and hands them over.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use anabranch_runtime::tasks::{self, Shutdown};

use super::Context;
use crate::error::Error;
use crate::link::{Caller, Incoming, Listener, RefusalCode};

/// How many connections may be in their handshake at once; more wait to be accepted. One that is
/// silent has its place for two seconds.
const MAX_HANDSHAKES: usize = 4096;
/// How long to wait after a failure to accept: mostly, too many files are open.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts until the shutdown begins.
pub(super) async fn accept_all(context: Arc<Context>, mut listener: Listener, shutdown: Shutdown) {
    let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    loop {
        let accepted = async {
            let room = handshakes.clone().acquire_owned().await;
            listener.accept().await.map(|accepted| (accepted, room))
        };
        let accepted = tokio::select! {
            biased;
            () = shutdown.begun() => return,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok((caller, room)) => {
                let context = context.clone();
                tasks::spawn(async move {
                    let address = caller.address().to_owned();
                    match hand_over(&context, caller).await {
                        Ok(()) => {}
                        // Whoever scans ports is not worth a line.
                        Err(error @ (Error::Connection { .. } | Error::Closed)) => {
                            tracing::debug!(%address, %error, "a connection came to nothing");
                        }
                        Err(error @ Error::Untrusted { .. }) => {
                            tracing::info!(%address, %error, "a stranger is not accepted");
                        }
                        Err(error) => {
                            tracing::warn!(%address, %error, "a connection is not accepted");
                        }
                    }
                    drop(room);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection cannot be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn hand_over(context: &Context, caller: Caller) -> Result<(), Error> {
    let incoming = Incoming::receive(caller, &context.local).await?;
    match context.registry.choose(&incoming.peer) {
        Ok(inbox) => {
            if let Err(unsent) = inbox.try_send(incoming) {
                let reason = "the replication is being changed, or too many dial it".to_owned();
                return Err(unsent.into_inner().refuse(RefusalCode::Restarting, reason).await);
            }
            Ok(())
        }
        Err((code, reason)) => Err(incoming.refuse(code, reason).await),
    }
}

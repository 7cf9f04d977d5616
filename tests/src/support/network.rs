//! A network that can be cut: in front of each server stands a way that passes on what it gets, or
//! does not.
//!
//! Who is at the other end of a connection is found out by its process, so that everything to and
//! from one node can be cut, whoever made the connection. What a cut holds back arrives once it has
//! healed, as it does in a network that sends again what was lost.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

/// What is passed on at once.
const BUFFER_BYTES: usize = 64 << 10;

/// One end of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// A store node, by number.
    Node(usize),
    /// The log, as a store node reaches it.
    LogOf(usize),
}

/// How an end is cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cut {
    /// Connections break and none is made: as if nobody listened there.
    Broken,
    /// Nothing passes and nobody is told: as if a cable was pulled.
    Silent,
    /// Nothing gets there, but what it sends passes.
    Deaf,
    /// Nothing comes from there, but what is sent there passes.
    Mute,
    /// Nothing passes between it and other ends that are known, such as other nodes: but clients
    /// reach it.
    Apart,
}

/// How the ends are cut off that are.
type Cuts = BTreeMap<End, Cut>;

/// Ways to servers, and who is cut off.
#[derive(Debug)]
pub struct Network {
    runtime: Runtime,
    cuts: Arc<watch::Sender<Cuts>>,
    processes: Arc<Mutex<BTreeMap<End, u32>>>,
}

impl Network {
    /// A network without ways.
    pub fn new() -> Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        Ok(Network { runtime, cuts: Arc::default(), processes: Arc::default() })
    }

    /// Makes a way to the server of `end` at `port` of the loopback; the port at which it is
    /// reached.
    pub fn way(&self, end: End, port: u16) -> Result<u16> {
        let listening = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        let listener = self.runtime.block_on(listening).context("cannot make a way")?;
        let here = listener.local_addr()?;
        let (cuts, processes) = (self.cuts.subscribe(), Arc::clone(&self.processes));
        self.runtime.spawn(async move {
            while let Ok((stream, from)) = listener.accept().await {
                let (cuts, processes) = (cuts.clone(), Arc::clone(&processes));
                tokio::spawn(async move {
                    let from = match end {
                        End::Node(_) => look_up(processes, from, here).await,
                        // It has a way of its own.
                        End::LogOf(_) => None,
                    };
                    let link = Link { from, to: end, cuts };
                    // It ends when one side closes, or is cut: there is nothing to tell.
                    let _ = link.run(stream, port).await;
                });
            }
        });
        Ok(here.port())
    }

    /// Says whose process this is, from now on.
    pub fn set_process(&self, end: End, pid: u32) {
        self.processes.lock().insert(end, pid);
    }

    /// Cuts an end off.
    pub fn cut(&self, end: End, cut: Cut) {
        self.cuts.send_modify(|cuts| {
            cuts.insert(end, cut);
        });
    }

    /// Ends a cut.
    pub fn heal(&self, end: End) {
        self.cuts.send_modify(|cuts| {
            cuts.remove(&end);
        });
    }
}

async fn look_up(
    processes: Arc<Mutex<BTreeMap<End, u32>>>,
    from: SocketAddr,
    to: SocketAddr,
) -> Option<End> {
    let looked_up = tokio::task::spawn_blocking(move || {
        let processes = processes.lock().clone();
        owner(&processes, from, to)
    });
    looked_up.await.ok().flatten()
}

/// Which of these processes has the connection from `from` to `to`; `None` if it is another one.
fn owner(processes: &BTreeMap<End, u32>, from: SocketAddr, to: SocketAddr) -> Option<End> {
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    let inode = table.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let port = |text: Option<&str>| u16::from_str_radix(text?.rsplit_once(':')?.1, 16).ok();
        let (local, remote) = (port(fields.next())?, port(fields.next())?);
        (local == from.port() && remote == to.port()).then(|| fields.nth(6))?
    })?;
    let socket = format!("socket:[{inode}]");
    let has_it = |pid: u32| {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        files
            .filter_map(|file| fs::read_link(file.path()).ok())
            .any(|is| is.as_os_str() == &*socket)
    };
    processes.iter().find(|(_, pid)| has_it(**pid)).map(|(end, _)| *end)
}

/// A connection.
#[derive(Clone)]
struct Link {
    from: Option<End>,
    to: End,
    cuts: watch::Receiver<Cuts>,
}

impl Link {
    /// Passes on both ways until one side closes, or the connection breaks.
    async fn run(self, client: TcpStream, port: u16) -> std::io::Result<()> {
        let (from, to) = (self.from, Some(self.to));
        let mut broken = self.cuts.clone();
        let passing = async {
            // Somebody who is cut off is not seen to be gone either.
            self.open(from, to).await;
            let server = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
            client.set_nodelay(true)?;
            server.set_nodelay(true)?;
            let ((client_in, client_out), (server_in, server_out)) =
                (client.into_split(), server.into_split());
            tokio::select! {
                sent = self.pass(client_in, server_out, from, to) => sent,
                received = self.pass(server_in, client_out, to, from) => received,
            }
        };
        let is_broken = |cuts: &Cuts| is(cuts, from, Cut::Broken) || is(cuts, to, Cut::Broken);
        tokio::select! {
            // Who is cut off does not even begin.
            biased;
            _ = broken.wait_for(is_broken) => Ok(()),
            passed = passing => passed,
        }
    }

    /// Passes on in one direction.
    async fn pass(
        &self,
        mut from: OwnedReadHalf,
        mut to: OwnedWriteHalf,
        sender: Option<End>,
        receiver: Option<End>,
    ) -> std::io::Result<()> {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let read = from.read(&mut buffer).await;
            self.open(sender, receiver).await;
            match read? {
                0 => return Ok(()),
                length => to.write_all(&buffer[..length]).await?,
            }
        }
    }

    /// Waits until what one end sends gets to the other one.
    async fn open(&self, sender: Option<End>, receiver: Option<End>) {
        let passes = |cuts: &Cuts| {
            let both = sender.is_some() && receiver.is_some();
            let are_apart = is(cuts, sender, Cut::Apart) || is(cuts, receiver, Cut::Apart);
            let is_held = (both && are_apart)
                || is(cuts, sender, Cut::Silent)
                || is(cuts, sender, Cut::Mute)
                || is(cuts, receiver, Cut::Silent)
                || is(cuts, receiver, Cut::Deaf);
            !is_held
        };
        // An error means that the network is gone, and with it this task.
        let _ = self.cuts.clone().wait_for(passes).await;
    }
}

fn is(cuts: &Cuts, end: Option<End>, cut: Cut) -> bool {
    end.is_some_and(|end| cuts.get(&end) == Some(&cut))
}

#[cfg(test)]
mod tests;

//! One Kafka for a whole test binary, looked for in a fixed order.

use std::io::{self, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::process::{self, Output};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{env, fmt};

use anyhow::{Context, Result, anyhow, bail};

use super::container::Container;
use super::{BrokerProcess, broker_process};

const VARIABLE: &str = "ANABRANCH_KAFKA";
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

const NONE: &str = "\
no Kafka for the tests. One of these is needed:
  - ANABRANCH_KAFKA=host:port, a running Apache Kafka (its topics named by the tests will be written)
  - a Docker engine that has, or can pull, the image apache/kafka:4.3.1
  - a JRE, 17 or newer (Debian: openjdk-17-jre-headless), and Maven Central in reach (curl or mvn)";

/// A Kafka broker that the tests of one binary share.
///
/// It is, in this order: the one that `ANABRANCH_KAFKA=host:port` names, a container, a process.
/// `ANABRANCH_KAFKA=container` and `=process` ask for that way and no other.
pub struct Broker {
    address: String,
    way: Way,
}

enum Way {
    Named,
    Container(Box<Container>),
    Process(Box<BrokerProcess>),
}

impl Broker {
    /// The broker of this test binary, found or started by the first call. The tests write to topics
    /// of their own: see [`Broker::unique_name`].
    ///
    /// # Panics
    /// When there is none; the message says what to install.
    pub fn shared() -> &'static Broker {
        static SHARED: OnceLock<Result<Broker, String>> = OnceLock::new();
        let found = SHARED.get_or_init(|| find().map_err(|error| format!("{error:#}")));
        found.as_ref().unwrap_or_else(|error| panic!("{error}"))
    }

    /// `host:port` of the broker.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// A name that no other test has, for a cluster or a topic.
    pub fn unique_name(&self, prefix: &str) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis());
        format!("{prefix}-{now:x}-{:x}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// Runs a console tool of Kafka on this broker, such as `kafka-console-consumer`, with
    /// `--bootstrap-server` and then `arguments`.
    pub fn tool(&self, name: &str, arguments: &[&str]) -> Result<Output> {
        match &self.way {
            Way::Container(container) => container.tool(name, arguments),
            Way::Process(process) => process.tool(name, arguments),
            Way::Named => broker_process::tool(name, &self.address, arguments),
        }
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker").field("address", &self.address).finish_non_exhaustive()
    }
}

fn find() -> Result<Broker> {
    match env::var(VARIABLE).as_deref() {
        Ok("container") => container(),
        Ok("process") => process(),
        Ok(address) if !address.is_empty() => named(address),
        _ => container().or_else(|no_container| {
            say(&format!("no container: {no_container:#}"));
            process().map_err(|no_process| anyhow!("{NONE}\n\n{no_container:#}\n{no_process:#}"))
        }),
    }
}

fn named(address: &str) -> Result<Broker> {
    let context = || format!("cannot reach {VARIABLE}={address}");
    let mut addresses = address.to_socket_addrs().with_context(context)?;
    let Some(first) = addresses.next() else { bail!("{VARIABLE}={address} has no address") };
    TcpStream::connect_timeout(&first, CONNECT_LIMIT).with_context(context)?;
    say(&format!("{address}, which {VARIABLE} names"));
    Ok(Broker { address: address.to_owned(), way: Way::Named })
}

fn container() -> Result<Broker> {
    let container = Container::start()?;
    let address = container.address().to_owned();
    say(&format!("a container of apache/kafka at {address}"));
    Ok(Broker { address, way: Way::Container(Box::new(container)) })
}

fn process() -> Result<Broker> {
    let process = BrokerProcess::temporary()?;
    let address = process.address();
    say(&format!("a process of scripts/kafka at {address}"));
    Ok(Broker { address, way: Way::Process(Box::new(process)) })
}

/// To the terminal itself: the test runner keeps back what a test that passes prints.
fn say(what: &str) {
    let _ = writeln!(io::stderr(), "Kafka for these tests: {what}");
}

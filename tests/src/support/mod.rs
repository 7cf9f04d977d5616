//! Finds a Kafka for a test, and runs processes that a test kills and that never outlive it.
//!
//! * [`Broker::shared`]: one broker for a test binary, found or started; it never skips.
//! * [`BrokerProcess`]: a broker of the test's own, to be killed, paused and started again, or to
//!   listen with TLS and SASL ([`BrokerSettings`]).
//! * [`Process`]: any program on a leash: it is killed when the test binary ends, in whatever way.
//! * [`Network`]: ways between processes that can be cut.
//! * [`Random`]: numbers from a seed.

mod broker;
mod broker_process;
mod broker_settings;
mod container;
mod network;
mod ports;
mod process;
mod random;
mod wait;

pub use broker::Broker;
pub use broker_process::BrokerProcess;
pub use broker_settings::{BrokerSettings, TlsFiles};
pub use network::{Cut, End, Network};
pub use ports::free_port;
pub use process::{Process, signal};
pub use random::Random;
pub use wait::wait_until;

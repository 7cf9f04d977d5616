//! What stands in for the rest of a cluster in tests.

mod certificates;
pub(crate) mod cluster;
mod fateful;
mod log;
mod node;
mod pair;
mod proxy;
mod test_cluster;
mod unfair;

pub(crate) use certificates::Certificates;
pub(crate) use fateful::fateful;
pub(crate) use log::embedded_log;
pub(crate) use pair::{NAME, Pair, at, wants};
pub(crate) use proxy::Proxy;
pub(crate) use test_cluster::{TestBridge, TestCluster, eventually, mutation, put};
pub(crate) use unfair::{Delivered, unfair};

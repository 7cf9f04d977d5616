//! The pipe on Kafka: four processes a cluster.

use std::path::Path;

use anabranch_tests::cluster::{Certificates, Cluster, Layout};
use anabranch_tests::support::Broker;
use anyhow::Result;

use crate::{BINARY, pipe};

/// Two clusters on the shared broker, started and subscribed to each other.
pub(crate) fn clusters(dir: &Path) -> Result<(Cluster, Cluster)> {
    let binary = Path::new(BINARY);
    let broker = Broker::shared();
    let names = [broker.unique_name("east"), broker.unique_name("west")];
    let [east, west] = names.each_ref().map(String::as_str);
    let certificates = Certificates::make(binary, &dir.join("ca"), &[east, west])?;
    let cluster = |name: &str| {
        let flags = certificates.flags(name, &[east, west]);
        Cluster::new(binary, dir, name, broker.address(), &Layout::bridged(&flags))
    };
    let (mut east, mut west) = (cluster(east)?, cluster(west)?);
    east.start_all()?;
    west.start_all()?;
    east.api().replicate(&[&west.bridge_address()], &[("orders", "true")])?;
    west.api().replicate(&[], &[("cars", "Origin = 'Japan'")])?;
    Ok((east, west))
}

#[test]
fn a_write_in_one_cluster_arrives_filtered_in_another() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (east, west) = clusters(dir.path())?;
    pipe::check(&east.api(), &west.api()).map_err(|error| west.explained(&east.explained(&error)))
}

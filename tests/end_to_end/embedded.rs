//! The pipe on embedded logs: one process a cluster, and the demo, which has both in one.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anabranch_tests::cluster::{ADMIN_KEY_FILE, Api, Certificates, Dev, PATIENCE};
use anabranch_tests::support::{Process, free_port, wait_until};
use anyhow::{Context, Result, ensure};

use crate::{BINARY, pipe};

/// A cluster in one process, with a bridge.
pub(crate) struct Bridged {
    pub(crate) process: Process,
    pub(crate) api: Api,
    bridge: String,
}

/// Starts a cluster whose bridge has a certificate, and waits until it is ready.
pub(crate) fn start(
    dir: &Path,
    name: &str,
    certificates: &Certificates,
    trusted: &[&str],
) -> Result<Bridged> {
    let bridge = format!("127.0.0.1:{}", free_port());
    let mut flags = vec!["--listen-bridge".to_owned(), bridge.clone()];
    flags.extend(certificates.flags(name, trusted));
    let Dev { process, api } = Dev::start(Path::new(BINARY), dir, name, &flags)?;
    Ok(Bridged { process, api, bridge })
}

#[test]
fn a_write_in_one_cluster_arrives_filtered_in_another() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let names = ["east", "west"];
    let certificates = Certificates::make(Path::new(BINARY), &dir.path().join("ca"), &names)?;
    let mut east = start(dir.path(), "east", &certificates, &names)?;
    let west = start(dir.path(), "west", &certificates, &names)?;
    east.api.replicate(&[], &[("orders", "true")])?;
    west.api.replicate(&[&east.bridge], &[("cars", "Origin = 'Japan'")])?;
    let logs = || {
        format!(
            "{}{}",
            east.process.output().unwrap_or_default(),
            west.process.output().unwrap_or_default()
        )
    };
    pipe::check(&east.api, &west.api).with_context(logs)?;

    // What was acknowledged is there after an orderly end and a new start.
    let before = east.api.documents("cars")?;
    ensure!(east.process.terminate(Duration::from_secs(30))?.success(), "an orderly end");
    let east = start(dir.path(), "east", &certificates, &names)?;
    let same = || Ok(east.api.documents("cars").is_ok_and(|found| found == before));
    wait_until("the same cars are in east", PATIENCE, same)
}

#[test]
fn the_demo_shows_what_it_says() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let ports = [free_port(), free_port(), free_port(), free_port()];
    let at = ports.map(|port| format!("127.0.0.1:{port}"));
    let mut command = Command::new(BINARY);
    command.args(["dev", "--demo", "--data-dir"]).arg(dir.path().join("data"));
    command.args(["--listen", &at[0], "--listen-west", &at[1]]);
    command.args(["--listen-admin", &at[2], "--listen-admin-west", &at[3]]);
    command.env("ANABRANCH_ADMIN_KEY_FILE", ADMIN_KEY_FILE);
    let (east, west) = (Api::new(ports[0], ports[2]), Api::new(ports[1], ports[3]));
    let log = dir.path().join("demo.log");
    // The second run finds what the first one left and ends in the same state.
    for run in 0..2 {
        let mut demo = Process::spawn("demo", &command, &log)?;
        demo.wait_for_output("curl", PATIENCE)?;
        let key = dir.path().join("data").join("dev.key");
        let [east, west] = [&east, &west].map(|api| api.clone().showing_key_in(&key));
        let (cars, wanted) = (east?.documents("cars")?, west?.documents("cars")?);
        ensure!(cars.len() == 405, "{} cars in east", cars.len());
        let output = demo.output()?;
        ensure!(wanted.len() == 77, "{} cars in west: {output}", wanted.len());
        let walked = output.contains("79 cars") && output.contains("78 cars");
        ensure!(walked || run > 0, "{output}");
        ensure!(demo.terminate(Duration::from_secs(30))?.success(), "{output}");
    }
    Ok(())
}

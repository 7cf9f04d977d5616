//! `anabranch bench`: what this machine does, next to what its log does without us.
//!
//! Clusters run in this process, on a Kafka that is named or on the embedded log, and are used over
//! HTTP like any other. The raw figures come from the same broker or disk, minutes apart at most,
//! with the same bytes: the records that the cluster has just written. The host of a machine may
//! take CPU time away: how much is shown beside every figure.

mod apply;
mod bridge;
mod cluster;
mod documents;
mod fan_out;
mod place;
mod raw;
mod read;
mod report;
mod requests;
mod write;

use anyhow::{Result, bail};
use clap::Subcommand;

use crate::host::Signals;

/// Measure this machine: writes, catching up, replication, reads, several store nodes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Write(write::Args),
    Apply(apply::Args),
    Bridge(bridge::Args),
    Read(read::Args),
    Cluster(cluster::Args),
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let mut signals = Signals::watch()?;
    let measuring = async {
        match args.command {
            Command::Write(args) => write::run(args).await,
            Command::Apply(args) => apply::run(args).await,
            Command::Bridge(args) => bridge::run(args).await,
            Command::Read(args) => read::run(args).await,
            Command::Cluster(args) => cluster::run(args).await,
        }
    };
    // What was measured until then is of no use, but the directory goes.
    tokio::select! {
        measured = measuring => measured,
        signal = signals.next() => bail!("ended by {signal}"),
    }
}

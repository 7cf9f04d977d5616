//! The one binary: `anabranch dev` is a whole cluster in one process; `ingest`, `store-node`, `cdc`
//! and `bridge` are the services one by one; the rest are clients and tools. A command is a file.

mod apply;
mod bench;
mod board;
mod bridge;
mod ca;
mod cdc;
mod client;
mod cluster;
mod demo_walk;
mod dev;
mod failure;
mod get;
mod host;
mod https;
mod ingest;
mod key;
mod key_file;
mod load;
mod local;
mod output;
mod query;
mod service;
mod settings;
mod status;
mod store_node;
mod store_nodes;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};
use mimalloc::MiMalloc;

use crate::failure::{EXIT_CODES, Shown};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// A causally consistent document database whose only source of truth is a log.
#[derive(Debug, Parser)]
#[command(name = "anabranch", version, max_term_width = 100, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Dev(dev::Args),
    Ingest(ingest::Args),
    StoreNode(store_node::Args),
    Cdc(cdc::Args),
    Bridge(bridge::Args),
    Apply(apply::Args),
    Get(get::Args),
    Key(key::Args),
    Status(status::Args),
    Query(query::Args),
    Load(load::Args),
    Ca(ca::Args),
    Bench(bench::Args),
    DemoWalk(demo_walk::Args),
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::say(Shown(&error));
            Shown(&error).exit().into()
        }
    }
}

/// How long calls that block may go on when everything else has ended.
const BLOCKED: Duration = Duration::from_secs(2);

fn run(command: Command) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.context("start the async runtime")?;
    let result = runtime.block_on(dispatch(command));
    runtime.shutdown_timeout(BLOCKED);
    result
}

async fn dispatch(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Dev(args) => dev::run(args).await,
        Command::Ingest(args) => ingest::run(args).await,
        Command::StoreNode(args) => store_node::run(args).await,
        Command::Cdc(args) => cdc::run(args).await,
        Command::Bridge(args) => bridge::run(args).await,
        Command::Apply(args) => apply::run(args).await,
        Command::Get(args) => get::run(args).await,
        Command::Key(args) => key::run(args).await,
        Command::Status(args) => status::run(args).await,
        Command::Query(args) => query::run(args).await,
        Command::Load(args) => load::run(args).await,
        Command::Ca(args) => ca::run(args),
        Command::Bench(args) => bench::run(args).await,
        Command::DemoWalk(args) => demo_walk::run(args).await,
    }
}

//! The one binary: `anabranch dev` is a whole cluster in one process; `ingest`, `store-node`, `cdc`
//! and `bridge` are the services one by one; the rest are clients and tools. A command is a file.

mod apply;
mod client;
mod demo_walk;
mod failure;
mod get;
mod load;
mod output;
mod query;

use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::failure::{EXIT_CODES, Shown};

/// A causally consistent document database whose only source of truth is a log.
#[derive(Debug, Parser)]
#[command(name = "anabranch", version, max_term_width = 100, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Query(query::Args),
    Load(load::Args),
    Apply(apply::Args),
    Get(get::Args),
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

fn run(command: Command) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.context("start the async runtime")?.block_on(async {
        match command {
            Command::Query(args) => query::run(args).await,
            Command::Load(args) => load::run(args).await,
            Command::Apply(args) => apply::run(args).await,
            Command::Get(args) => get::run(args).await,
            Command::DemoWalk(args) => demo_walk::run(args).await,
        }
    })
}

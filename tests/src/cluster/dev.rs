//! A cluster in one process, on an embedded log.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::{ADMIN_KEY_FILE, Api, PATIENCE};
use crate::support::{Process, free_port, wait_until};

/// A cluster in one process.
#[derive(Debug)]
pub struct Dev {
    /// The process.
    pub process: Process,
    /// Its HTTP API.
    pub api: Api,
}

impl Dev {
    /// Starts one in a folder, with more flags, and waits until it is ready.
    pub fn start(binary: &Path, dir: &Path, name: &str, flags: &[String]) -> Result<Self> {
        let (http, admin) = (free_port(), free_port());
        let mut command = Command::new(binary);
        command.args(["dev", "--name", name, "--data-dir"]).arg(dir.join(name));
        command.args(["--listen", &format!("127.0.0.1:{http}")]);
        command.args(["--listen-admin", &format!("127.0.0.1:{admin}")]).args(flags);
        command.env("ANABRANCH_ADMIN_KEY_FILE", ADMIN_KEY_FILE);
        let process = Process::spawn(name, &command, &dir.join(format!("{name}.log")))?;
        let api = Api::new(http, admin);
        wait_until("the cluster is ready", PATIENCE, || Ok(api.is_ready()))
            .with_context(|| process.output().unwrap_or_default())?;
        let api = api.showing_key_in(&dir.join(name).join("dev.key"))?;
        Ok(Dev { process, api })
    }
}

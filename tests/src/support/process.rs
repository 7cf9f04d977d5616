//! A program on a leash: it is killed when the test binary ends, be it by a panic or `kill -9`.
//!
//! A shell in the program's place starts a watcher that holds the read end of a pipe, and then
//! becomes the program, so that [`Process::pid`] is the program's own. The write end is in the test
//! binary and in nothing else (Rust opens files close-on-exec), so the kernel closes it whatever
//! happens. The program is in a process group of its own: Ctrl-C reaches the test binary only.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::wait_until;

/// `$1` is a folder to remove once the program has been killed, or empty; the program follows.
const LEASH: &str = r#"
exec 3<&0 </dev/null
{
  trap '' INT TERM HUP
  read -r word <&3
  [ "$word" = released ] && exit
  kill -9 $$
  if [ -n "$1" ]; then
    for _ in 1 2 3 4 5 6 7 8 9 10; do kill -0 $$ || break; sleep 0.1; done
    rm -rf -- "$1"
  fi
} >/dev/null 2>&1 &
exec 3<&-
shift
exec "$@"
"#;

/// A running program whose output goes to a file. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    leash: Option<ChildStdin>,
    log: PathBuf,
    log_start: u64,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts `command` (its program, arguments, folder and environment are used; its standard
    /// input is empty) and appends its output to the file `log`.
    pub fn spawn(name: &str, command: &Command, log: &Path) -> Result<Self> {
        Self::spawn_removing(name, command, log, None)
    }

    /// Like [`Process::spawn`]; if the test binary ends before the program, `folder` is removed.
    pub fn spawn_removing(
        name: &str,
        command: &Command,
        log: &Path,
        folder: Option<&Path>,
    ) -> Result<Self> {
        let output = OpenOptions::new().create(true).append(true).open(log);
        let output = output.with_context(|| format!("cannot open {}", log.display()))?;
        let log_start = output.metadata()?.len();
        let mut leashed = Command::new("sh");
        leashed.arg("-c").arg(LEASH).arg(name).arg(folder.unwrap_or(Path::new("")));
        leashed.arg(command.get_program()).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => leashed.env(key, value),
                None => leashed.env_remove(key),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            leashed.current_dir(folder);
        }
        leashed.stdin(Stdio::piped()).stdout(output.try_clone()?).stderr(output).process_group(0);
        let mut child = leashed.spawn().with_context(|| format!("cannot start {name}"))?;
        let leash = child.stdin.take();
        Ok(Self {
            name: name.to_owned(),
            child,
            leash,
            log: log.to_owned(),
            log_start,
            status: None,
        })
    }

    /// The program's process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether the program has not ended yet.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.try_wait()?.is_none())
    }

    /// How the program ended, if it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.try_wait()
    }

    /// Sends a signal, named as `kill` names it: `"TERM"`, `"STOP"`, `"CONT"`.
    pub fn signal(&mut self, name: &str) -> Result<()> {
        if !self.is_running()? {
            bail!("{} has ended", self.name);
        }
        signal(self.pid(), name)
    }

    /// Kills the program (`kill -9`) and waits for its end.
    pub fn kill_hard(&mut self) -> Result<()> {
        if self.status.is_none() {
            self.child.kill().with_context(|| format!("cannot kill {}", self.name))?;
            self.status = Some(self.child.wait()?);
        }
        self.release();
        Ok(())
    }

    /// Asks the program to end (`kill -TERM`) and waits at most `limit` for it.
    pub fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        if self.is_running()? {
            signal(self.pid(), "TERM")?;
        }
        self.wait(limit)
    }

    /// Waits at most `limit` for the program's end.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("end of {}", self.name);
        wait_until(&what, limit, || Ok(self.try_wait()?.is_some()))?;
        self.status.with_context(|| what)
    }

    /// Waits until the program's output of this run contains `text`. Fails after `limit`, or when
    /// the program ends, with the last lines of the output.
    pub fn wait_for_output(&mut self, text: &str, limit: Duration) -> Result<()> {
        let what = format!("'{text}' in the output of {}", self.name);
        let waited = wait_until(&what, limit, || {
            let ended = !self.is_running()?; // before reading, so that its last words are seen
            if self.output()?.contains(text) {
                return Ok(true);
            }
            if ended {
                bail!(
                    "{} ended: {}",
                    self.name,
                    self.status.map_or(String::new(), |s| s.to_string())
                );
            }
            Ok(false)
        });
        waited.with_context(|| self.last_lines())
    }

    /// What the program has written in this run.
    pub fn output(&self) -> Result<String> {
        let mut file = File::open(&self.log)?;
        file.seek(SeekFrom::Start(self.log_start))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The end of what the program has written in this run, for a failure's message.
    pub fn last_lines(&self) -> String {
        let output = self.output().unwrap_or_default();
        let lines: Vec<&str> = output.lines().collect();
        let shown = lines[lines.len().saturating_sub(20)..].join("\n");
        format!("the last lines of {}:\n{shown}", self.log.display())
    }

    fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self.child.try_wait()?;
            if self.status.is_some() {
                self.release();
            }
        }
        Ok(self.status)
    }

    /// Tells the watcher to go: the process id may soon be another program's.
    fn release(&mut self) {
        if let Some(mut leash) = self.leash.take() {
            let _ = leash.write_all(b"released\n"); // a watcher that is gone needs no telling
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill_hard();
    }
}

/// Sends the signal `name` (as `kill` names it) to the process `pid`.
pub fn signal(pid: u32, name: &str) -> Result<()> {
    let status = Command::new("kill").arg("-s").arg(name).arg(pid.to_string()).status();
    let status = status.context("cannot run kill")?;
    if !status.success() {
        bail!("cannot send {name} to process {pid}");
    }
    Ok(())
}

/// Creates the folder if it is not there and returns its absolute path.
pub(super) fn folder(path: &Path) -> Result<PathBuf> {
    fs::create_dir_all(path).with_context(|| format!("cannot create {}", path.display()))?;
    fs::canonicalize(path).with_context(|| format!("cannot find {}", path.display()))
}

#[cfg(test)]
mod tests;

//! A cluster whose HTTP addresses speak TLS, with the certificate that `anabranch ca` issues, and
//! every command that calls them.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use anabranch_tests::cluster::{ADMIN_KEY_FILE, APP, PATIENCE};
use anabranch_tests::support::{Process, free_port, wait_until};
use anyhow::{Context, Result, ensure};

use crate::BINARY;
use crate::commands::{DONE, FAILED, REFUSED, WRONG_USAGE, has, run};

const CARS: &str = "../tests/fixtures/cars.json";
const COUNT: &str = "SELECT COUNT(*) AS n FROM cars";

/// A cluster and where it is.
struct Cluster {
    process: Process,
    /// What all clients need of it: where the certificate of its authority is.
    ca: String,
    key: String,
    api: String,
    admin: String,
}

fn path(path: &Path) -> Result<String> {
    Ok(path.to_str().context("a UTF-8 path")?.to_owned())
}

impl Cluster {
    fn start(dir: &Path) -> Result<Self> {
        let folder = path(&dir.join("dev"))?;
        run(&["ca", "init", "--dir", &folder], DONE)?;
        run(&["ca", "issue-https", "--dir", &folder, "--host", "127.0.0.1"], DONE)?;
        let (http, admin) = (free_port(), free_port());
        let mut command = Command::new(BINARY);
        command.args(["dev", "--data-dir", &path(&dir.join("data"))?]);
        command.args(["--listen", &format!("127.0.0.1:{http}")]);
        // On the loopback alone it would stay plain.
        command.args(["--listen-admin", &format!("0.0.0.0:{admin}")]);
        command.args(["--https-certificate", &format!("{folder}/https-cert.pem")]);
        command.args(["--https-key", &format!("{folder}/https-key.pem")]);
        command.env("ANABRANCH_ADMIN_KEY_FILE", ADMIN_KEY_FILE);
        let process = Process::spawn("dev", &command, &dir.join("log"))?;
        let cluster = Cluster {
            process,
            ca: format!("{folder}/ca.pem"),
            key: path(&dir.join("data").join("dev.key"))?,
            api: format!("https://127.0.0.1:{http}"),
            admin: format!("https://127.0.0.1:{admin}"),
        };
        wait_until("the cluster is ready", PATIENCE, || {
            Ok(cluster.query(COUNT, DONE).is_ok() && cluster.manage(&["status"]).is_ok())
        })
        .with_context(|| cluster.process.output().unwrap_or_default())?;
        Ok(cluster)
    }

    fn query(&self, statement: &str, code: i32) -> Result<(String, String)> {
        let at = ["--server", &self.api, "--key-file", &self.key, "--ca-file", &self.ca];
        run(&[&["query", statement], &at[..]].concat(), code)
    }

    /// Runs a command for the admin address.
    fn manage(&self, arguments: &[&str]) -> Result<String> {
        let at = ["--server", &self.admin, "--ca-file", &self.ca];
        Ok(run(&[arguments, &at[..]].concat(), DONE)?.0)
    }
}

#[test]
fn every_command_speaks_tls_with_a_server_that_does() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut cluster = Cluster::start(dir.path())?;
    let load = ["load", CARS, "--collection", "cars", "--key-file", &cluster.key];
    run(&[&load[..], &["--server", &cluster.api, "--ca-file", &cluster.ca]].concat(), DONE)?;
    has(&cluster.query(COUNT, DONE)?.0, r#"{"n":406}"#)?;

    let text = format!(
        "apiVersion: anabranch/v1\nkind: Replication\n\
         metadata: {{ name: japanese-cars, app: {APP} }}\n\
         spec:\n  subscriptions: {{ queriesByCollection: {{ cars: [\"Origin = 'Japan'\"] }} }}\n"
    );
    let file = path(&dir.path().join("replication.yaml"))?;
    fs::write(&file, text)?;
    has(&cluster.manage(&["apply", "-f", &file])?, "created")?;
    has(&cluster.manage(&["get"])?, "japanese-cars")?;
    has(&cluster.manage(&["key", "create", "other", "--all"])?, "anb_other_")?;
    has(&cluster.manage(&["key", "list"])?, "other")?;
    has(&cluster.manage(&["status"])?, "store-node")?;
    cluster.manage(&["status", "--verify"])?;

    // The authority can be named once for all of them.
    let mut command = Command::new(BINARY);
    command.args(["query", COUNT, "--server", &cluster.api, "--key-file", &cluster.key]);
    let output = command.env("ANABRANCH_CA_FILE", &cluster.ca).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    distrust(dir.path(), &cluster)?;
    hanging(&cluster)?;
    let status = cluster.process.terminate(PATIENCE)?;
    ensure!(status.success(), "{status}: {}", cluster.process.last_lines());
    Ok(())
}

/// Whoever does not trust the server, or calls it otherwise than it is, is told what to do.
fn distrust(dir: &Path, cluster: &Cluster) -> Result<()> {
    let other = path(&dir.join("west"))?;
    run(&["ca", "init", "--dir", &other], DONE)?;
    let query = |server: &str, ca: &str, code: i32| {
        run(
            &["query", COUNT, "--key-file", &cluster.key, "--server", server, "--ca-file", ca],
            code,
        )
    };
    let (_, stderr) = query(&cluster.api, &format!("{other}/ca.pem"), FAILED)?;
    has(&stderr, "--ca-file")?;
    let (_, stderr) = query(&cluster.api.replace("127.0.0.1", "localhost"), &cluster.ca, FAILED)?;
    has(&stderr, "for another host")?;
    let (_, stderr) = query(&cluster.api.replace("https", "http"), &cluster.ca, REFUSED)?;
    has(&stderr, "write https://")?;
    let (_, stderr) = query(&cluster.api, "no-such-file", WRONG_USAGE)?;
    has(&stderr, "no-such-file")?;
    let plain = cluster.admin.replace("https", "http");
    let (_, stderr) = run(&["get", "--server", &plain], REFUSED)?;
    has(&stderr, "write https://")
}

/// Who connects and says nothing keeps nobody out.
fn hanging(cluster: &Cluster) -> Result<()> {
    let addresses = [&cluster.api, &cluster.admin].map(|url| url.replace("https://", ""));
    let mut hanging = Vec::new();
    for _ in 0..100 {
        for address in &addresses {
            hanging.push(TcpStream::connect(address)?);
        }
    }
    cluster.query(COUNT, DONE)?;
    cluster.manage(&["get"])?;
    Ok(())
}

#[test]
fn a_certificate_that_cannot_be_shown_is_refused_at_the_start() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let folders = ["east", "west"].map(|name| dir.path().join(name));
    for folder in &folders {
        let folder = path(folder)?;
        run(&["ca", "init", "--dir", &folder], DONE)?;
        run(&["ca", "issue-https", "--dir", &folder, "--host", "localhost"], DONE)?;
    }
    let certificate = path(&folders[0].join("https-cert.pem"))?;
    let data = path(&dir.path().join("data"))?;
    let at = format!("127.0.0.1:{}", free_port());
    let dev = ["dev", "--data-dir", &data, "--listen", &at, "--listen-admin", "127.0.0.1:0"];
    let half = ["--https-certificate", &certificate];
    let (_, stderr) = run(&[&dev[..], &half].concat(), WRONG_USAGE)?;
    has(&stderr, "'https.key': it is required but not set")?;
    let other = path(&folders[1].join("https-key.pem"))?;
    let (_, stderr) = run(&[&dev[..], &half, &["--https-key", &other]].concat(), WRONG_USAGE)?;
    has(&stderr, "does not fit")?;
    let (_, stderr) = run(&[&dev[..], &half, &["--https-key", "none"]].concat(), WRONG_USAGE)?;
    has(&stderr, "'none'")?;
    let kafka = ["ingest", "--kafka", "127.0.0.1:1", "--cluster", "east", "--listen", &at];
    let (_, stderr) = run(&[&kafka[..], &half, &["--https-key", &other]].concat(), WRONG_USAGE)?;
    has(&stderr, "does not fit")
}

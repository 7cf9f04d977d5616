//! The program's commands as a user runs them, on `anabranch dev`: what they print, and how they
//! end.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use anabranch_tests::cluster::{ADMIN_KEY_FILE, APP, Api, Certificates, PATIENCE};
use anabranch_tests::support::{Process, free_port, wait_until};
use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{BINARY, embedded};

const CARS: &str = "../tests/fixtures/cars.json";

/// Exit codes, as `--help` lists them.
pub(crate) const DONE: i32 = 0;
pub(crate) const FAILED: i32 = 1;
pub(crate) const WRONG_USAGE: i32 = 2;
pub(crate) const REFUSED: i32 = 3;
const UNAVAILABLE: i32 = 4;

/// Runs the program, which must end with `code`; what it printed, results and messages.
pub(crate) fn run(arguments: &[&str], code: i32) -> Result<(String, String)> {
    let mut command = Command::new(BINARY);
    command.args(arguments).env("ANABRANCH_ADMIN_KEY_FILE", ADMIN_KEY_FILE);
    let output = command.output().context("run the program")?;
    let Output { status, stdout, stderr } = output;
    let (stdout, stderr) = (String::from_utf8(stdout)?, String::from_utf8(stderr)?);
    let what = format!("{arguments:?} ended with {status}\n{stdout}\n{stderr}");
    ensure!(status.code() == Some(code), "{what}");
    Ok((stdout, stderr))
}

/// Fails unless `text` has `part`.
pub(crate) fn has(text: &str, part: &str) -> Result<()> {
    ensure!(text.contains(part), "'{part}' is not in:\n{text}");
    Ok(())
}

fn write(dir: &Path, name: &str, text: &str) -> Result<String> {
    let path = dir.join(name);
    fs::write(&path, text)?;
    Ok(path.to_str().context("a UTF-8 path")?.to_owned())
}

#[test]
fn a_user_declares_loads_asks_and_looks() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let certificates = Certificates::make(Path::new(BINARY), &dir.path().join("ca"), &["dev"])?;
    let mut dev = embedded::start(dir.path(), "dev", &certificates, &["dev"])?;
    own_key(dir.path(), &mut dev.process)?;
    resources(dir.path(), &dev.api)?;
    documents(dir.path(), &dev.api)?;
    keys(dir.path(), &dev.api)?;
    cluster(dir.path(), &dev.api)?;
    status(&dev.api)
}

/// Whoever starts it is shown a key, which is kept where nobody else may read it.
fn own_key(dir: &Path, process: &mut Process) -> Result<()> {
    let file = dir.join("dev").join("dev.key");
    let key = fs::read_to_string(&file)?;
    ensure!(key.starts_with("anb_dev_"), "it is no key of 'dev'");
    let kept = format!("{}  (kept in {})", key.trim(), file.display());
    process.wait_for_output(&kept, PATIENCE)?;
    let mode = fs::metadata(&file)?.permissions().mode() & 0o777;
    ensure!(mode == 0o600, "{mode:o}");
    Ok(())
}

fn resources(dir: &Path, api: &Api) -> Result<()> {
    let text = format!(
        "apiVersion: anabranch/v1\nkind: Replication\n\
         metadata: {{ name: japanese-cars, app: {APP} }}\n\
         spec:\n  subscriptions: {{ queriesByCollection: {{ cars: [\"Origin = 'Japan'\"] }} }}\n"
    );
    let file = write(dir, "replication.yaml", &text)?;
    let server = api.admin_url();
    for change in ["created", "unchanged"] {
        let (stdout, _) = run(&["apply", "-f", &file, "--server", server], DONE)?;
        has(&stdout, change)?;
    }
    let (stdout, _) = run(&["get", "--server", server], DONE)?;
    has(&stdout, "japanese-cars")?;
    has(&stdout, "nothing received yet")?;
    let (stdout, _) = run(&["get", "replication", "japanese-cars", "--server", server], DONE)?;
    has(&stdout, "queriesByCollection")?;
    run(&["get", "replication", "other", "--server", server], REFUSED)?;

    let wrong = write(dir, "wrong.yaml", &text.replace("subscriptions", "subscription"))?;
    let (_, stderr) = run(&["apply", "-f", &wrong, "--server", server], REFUSED)?;
    has(&stderr, "subscriptions")
}

/// What a cluster with data is told of its configuration.
fn cluster(dir: &Path, api: &Api) -> Result<()> {
    let text = "apiVersion: anabranch/v1\nkind: Cluster\nmetadata: { name: dev }\n\
                spec:\n  partitions:\n    - nodes: { a: \"127.0.0.1:7070\" }\n";
    let server = api.admin_url();
    let refused = |text: &str| -> Result<String> {
        let file = write(dir, "cluster.yaml", text)?;
        Ok(run(&["apply", "-f", &file, "--server", server], REFUSED)?.1)
    };
    has(&refused(text)?, "[cluster_in_use]")?;
    has(&refused(&text.replace("dev", "west"))?, "this one is 'dev'")?;
    has(&refused(&text.replace("nodes", "node"))?, "did you mean 'nodes'?")?;
    has(&refused(&text.replace(":7070", ""))?, "spec.partitions[0].nodes.a: '127.0.0.1' is not")?;
    let (stdout, _) = run(&["get", "cluster", "--server", server], DONE)?;
    ensure!(stdout.lines().count() == 1, "{stdout}");
    let (_, stderr) = run(&["get", "cluster", "dev", "--server", server], REFUSED)?;
    has(&stderr, "there is no Cluster named 'dev'")
}

fn documents(dir: &Path, api: &Api) -> Result<()> {
    let key = dir.join("dev").join("dev.key").display().to_string();
    let server = ["--server", api.url(), "--key-file", &key];
    let load = |file: &str, code| {
        run(&[&["load", file, "--collection", "cars"], &server[..]].concat(), code)
    };
    let (stdout, _) = load(CARS, DONE)?;
    has(&stdout, "406 documents loaded into cars, 0 refused")?;
    let events = events(api)?;
    ensure!(events == 406, "{events} events of 406 cars");
    // Equal documents are no changes.
    let (stdout, _) = load(CARS, DONE)?;
    has(&stdout, "406 documents loaded into cars, 0 refused")?;
    let again = self::events(api)?;
    ensure!(again == events, "{again} events after the same file again");

    explained(&server)?;
    let japanese = "SELECT * FROM cars WHERE Origin = :origin";
    let arguments = [japanese, "--args", r#"{"origin": "Japan"}"#];
    let (stdout, _) = run(&[&["query"], &server[..], &arguments[..]].concat(), DONE)?;
    ensure!(stdout.lines().count() == 79, "{stdout}");
    for line in stdout.lines() {
        serde_json::from_str::<Value>(line).context(line.to_owned())?;
    }
    run(&[&["query", "SELECT * FRM cars"], &server[..]].concat(), REFUSED)?;

    let rows = "{\"_id\": \"good\"}\n{\"broken\n{\"_id\": null}\n{\"_id\": \"also good\"}\n";
    let (stdout, stderr) = load(&write(dir, "rows.json", rows)?, REFUSED)?;
    has(&stdout, "2 documents loaded into cars, 2 refused")?;
    has(&stderr, "rows.json:2: ")?;
    has(&stderr, "rows.json:3: ")?;
    load("no-such-file", WRONG_USAGE)?;
    Ok(())
}

/// What would be done is told in one row, and not done.
fn explained(server: &[&str]) -> Result<()> {
    for (statement, access) in [
        ("EXPLAIN SELECT * FROM cars WHERE Origin = :origin", "scan"),
        ("EXPLAIN UPDATE cars SET Origin = 'none' WHERE Origin = :origin", "scan"),
        ("EXPLAIN DELETE FROM cars WHERE Origin = :origin", "scan"),
        ("EXPLAIN EVICT FROM cars WHERE Origin = :origin", "scan"),
        ("EXPLAIN DELETE FROM cars WHERE _id = :origin", "ids"),
    ] {
        let arguments = ["query", statement, "--args", r#"{"origin": "Japan"}"#];
        let (stdout, _) = run(&[&arguments[..], server].concat(), DONE)?;
        let row: Value = serde_json::from_str(&stdout).with_context(|| stdout.clone())?;
        ensure!(row["partitions"][0]["access"] == access, "{statement}: {row}");
    }
    Ok(())
}

/// Keys are made, used, changed and taken away.
fn keys(dir: &Path, api: &Api) -> Result<()> {
    let key = |arguments: &[&str], code| {
        run(&[&["key"], arguments, &["--server", api.admin_url()]].concat(), code)
    };
    // Servers hear of a change a moment later.
    let counts = |token: &str, expected: &str| {
        let select = "SELECT COUNT(*) AS n FROM cars";
        let asked = ["query", select, "--server", api.url(), "--key", token.trim()];
        wait_until(expected, PATIENCE, || {
            let output = Command::new(BINARY).args(asked).output()?;
            let told = [output.stdout, output.stderr].concat();
            Ok(String::from_utf8_lossy(&told).contains(expected))
        })
    };
    const JAPANESE: &str = r#"{"n":79}"#;
    const WRONG: &str = "[unauthenticated]";
    let rule = "cars:Origin = :origin";
    let create = ["create", "japan", "--read", rule, "--claim", "origin=Japan"];
    let (token, stderr) = key(&create, DONE)?;
    has(&stderr, "the only time")?;
    counts(&token, JAPANESE)?;
    has(&key(&create, REFUSED)?.1, "[resource_exists]")?;
    let delete = ["query", "DELETE FROM cars WHERE TRUE", "--server", api.url(), "--key"];
    let (_, stderr) = run(&[&delete[..], &[token.trim()]].concat(), REFUSED)?;
    has(&stderr, "[forbidden]")?;
    has(&key(&["list"], DONE)?.0, "cars: Origin = :origin")?;

    let file = dir.join("japan.key").display().to_string();
    key(&["rotate", "japan", "--file", &file], DONE)?;
    counts(&token, WRONG)?;
    let rotated = fs::read_to_string(&file)?;
    counts(&rotated, JAPANESE)?;
    key(&["revoke", "japan"], DONE)?;
    counts(&rotated, WRONG)?;

    has(&key(&["create", "none"], WRONG_USAGE)?.1, "--all")?;
    has(
        &key(&["create", "x", "--read", "cars:Origin ="], WRONG_USAGE)?.1,
        "spec.permissions.cars.read",
    )?;
    has(&key(&["revoke", "japan"], REFUSED)?.1, "there is no Key japan")?;
    // Who shows another admin key, or none, sees nothing.
    let other = dir.join("dev").join("dev.key").display().to_string();
    has(&key(&["list", "--admin-key-file", &other], REFUSED)?.1, "this is not the admin key")
}

/// How many change events there are, once all that was written is captured.
fn events(api: &Api) -> Result<u64> {
    wait_until("all changes are captured", PATIENCE, || {
        let status = api.status()?;
        let parts = status["parts"].as_array().context("parts")?;
        Ok(parts.iter().all(|part| part["lagTransactions"] == 0))
    })?;
    let metrics = api.metrics()?;
    let mut counts =
        metrics.lines().filter_map(|line| line.strip_prefix("anabranch_cdc_changes_total"));
    let count = counts.next_back().context("a count of changes")?;
    count.trim().parse().with_context(|| count.to_owned())
}

fn status(api: &Api) -> Result<()> {
    let (stdout, _) = run(&["status", "--server", api.admin_url()], DONE)?;
    let (json, _) = run(&["status", "--json", "--server", api.admin_url()], DONE)?;
    let json: Value = serde_json::from_str(&json)?;
    let parts = json["parts"].as_array().context("parts")?;
    for name in ["ingest", "store-node", "cdc"] {
        has(&stdout, name)?;
        let part = parts.iter().find(|part| part["part"] == name);
        let part = part.with_context(|| format!("{name} in {json}"))?;
        ensure!(part["lagTransactions"].is_u64() && part["lagSeconds"].is_f64(), "{part}");
    }
    Ok(())
}

#[test]
fn wrong_settings_and_servers_that_are_away_are_told_by_exit_codes() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = write(dir.path(), "settings.toml", "lisen = \"127.0.0.1:1\"\n")?;
    let (_, stderr) = run(&["dev", "--config", &file, "--dump-config"], WRONG_USAGE)?;
    has(&stderr, "lisen")?;
    has(&stderr, "did you mean 'listen'?")?;

    let service = ["ingest", "--kafka", "127.0.0.1:1", "--cluster", "east", "--dump-config"];
    let secret = ["--kafka-property", "sasl.password=not-to-be-shown"];
    let (stdout, _) = run(&[&service[..], &secret[..]].concat(), DONE)?;
    has(&stdout, "listen = \"127.0.0.1:8080\"")?;
    has(&stdout, "sasl.password")?;
    ensure!(!stdout.contains("not-to-be-shown"), "{stdout}");

    let away = format!("http://127.0.0.1:{}", free_port());
    let (_, stderr) = run(&["query", "SELECT * FROM cars", "--server", &away], UNAVAILABLE)?;
    has(&stderr, "cannot connect")?;
    run(&["status", "--server", &away], UNAVAILABLE)?;
    run(&["get", "--server", &away], UNAVAILABLE)?;
    let impatient = ["load", CARS, "--collection", "cars", "--patience", "0", "--server", &away];
    run(&impatient, UNAVAILABLE)?;
    run(&["query", "SELECT 1", "--server", "ftp://nowhere"], WRONG_USAGE)?;
    Ok(())
}

/// Whatever is served, unless it is told where, is served to this machine only.
#[test]
fn services_listen_on_the_loopback_by_default() -> Result<()> {
    for service in ["dev", "ingest", "store-node", "cdc", "bridge"] {
        let on_kafka: &[&str] =
            if service == "dev" { &[] } else { &["--kafka", "127.0.0.1:1", "--cluster", "east"] };
        let (settings, _) = run(&[&[service, "--dump-config"][..], on_kafka].concat(), DONE)?;
        has(&settings, "listen_admin = \"127.0.0.1:8081\"")?;
        let mut listening = settings.lines().filter(|line| line.starts_with("listen"));
        ensure!(listening.all(|line| line.contains("= \"127.0.0.1:")), "{settings}");
    }
    Ok(())
}

#[test]
fn a_service_that_waits_for_its_log_ends_when_it_is_told_to() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let at = || format!("127.0.0.1:{}", free_port());
    let mut command = Command::new(BINARY);
    command.args(["ingest", "--cluster", "east", "--kafka", &at()]);
    command.args(["--listen", &at(), "--listen-admin", &at()]);
    let mut process = Process::spawn("ingest", &command, &dir.path().join("log"))?;
    process.wait_for_output("starting", PATIENCE)?;
    let status = process.terminate(PATIENCE)?;
    ensure!(status.success(), "{status}: {}", process.last_lines());
    Ok(())
}

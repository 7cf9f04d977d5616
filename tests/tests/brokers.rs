//! The brokers that the other tests rely on: what they keep, how they listen, when they end.

use std::env;
use std::net::TcpStream;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anabranch_tests::support::{
    Broker, BrokerProcess, BrokerSettings, Process, TlsFiles, free_port, wait_until,
};
use anyhow::{Context, Result, bail, ensure};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(60);

/// Runs a tool on the broker process and returns what it printed.
fn tool(broker: &BrokerProcess, name: &str, arguments: &[&str]) -> Result<String> {
    text(name, &broker.tool(name, arguments)?)
}

fn text(name: &str, output: &Output) -> Result<String> {
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{name}: {}\n{errors}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn create_topic(broker: &BrokerProcess, topic: &str) -> Result<()> {
    tool(broker, "kafka-topics", &["--create", "--topic", topic]).map(|_| ())
}

/// Writes records in one transaction.
fn produce(broker: &BrokerProcess, topic: &str, count: &str) -> Result<()> {
    let arguments = ["--topic", topic, "--num-records", count, "--record-size", "100"];
    let transaction = ["--throughput", "-1", "--transactional-id", topic];
    let mut all = arguments.to_vec();
    all.extend(transaction);
    all.extend(["--transaction-duration-ms", "10000"]);
    tool(broker, "kafka-producer-perf-test", &all).map(|_| ())
}

fn count_committed(broker: &BrokerProcess, topic: &str, at_most: &str) -> Result<usize> {
    let arguments = ["--topic", topic, "--from-beginning", "--isolation-level", "read_committed"];
    let mut all = arguments.to_vec();
    all.extend(["--max-messages", at_most, "--timeout-ms", "30000"]);
    Ok(tool(broker, "kafka-console-consumer", &all)?.lines().count())
}

#[test]
fn a_shared_broker_is_found_and_has_its_tools() -> Result<()> {
    let broker = Broker::shared();
    assert!(TcpStream::connect(broker.address()).is_ok());
    let topic = broker.unique_name("shared");
    text("create", &broker.tool("kafka-topics", &["--create", "--topic", &topic])?)?;
    let topics = text("list", &broker.tool("kafka-topics", &["--list"])?)?;
    assert!(topics.lines().any(|line| line == topic), "{topics}");
    let failed = broker.tool("kafka-topics", &["--describe", "--topic", "never-created"])?;
    assert!(!failed.status.success());
    Ok(())
}

#[test]
fn a_broker_process_keeps_what_was_committed_over_kill_9() -> Result<()> {
    let folder = TempDir::new()?;
    let mut broker = BrokerProcess::start(folder.path(), free_port())?;
    create_topic(&broker, "kept")?;
    produce(&broker, "kept", "500")?;
    for _ in 0..2 {
        broker.kill_hard()?;
        assert!(TcpStream::connect(broker.address()).is_err());
        broker.restart()?;
    }
    assert_eq!(count_committed(&broker, "kept", "500")?, 500);
    broker.process().signal("STOP")?;
    broker.process().signal("CONT")?;
    broker.stop()
}

struct Pki {
    folder: TempDir,
}

/// A CA, and a broker's and a client's certificate from it, as PEM files.
fn pki() -> Result<Pki> {
    let folder = TempDir::new()?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    std::fs::write(folder.path().join("ca.pem"), ca.pem())?;
    for name in ["broker", "client"] {
        let key = KeyPair::generate()?;
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let certificate = CertificateParams::new(names)?.signed_by(&key, &ca)?;
        std::fs::write(folder.path().join(format!("{name}.pem")), certificate.pem())?;
        std::fs::write(folder.path().join(format!("{name}.key")), key.serialize_pem())?;
        let store = format!("{}{}", key.serialize_pem(), certificate.pem());
        std::fs::write(folder.path().join(format!("{name}.store.pem")), store)?;
    }
    Ok(Pki { folder })
}

impl Pki {
    fn broker(&self) -> TlsFiles {
        let path = |name| self.folder.path().join(name);
        TlsFiles { ca: path("ca.pem"), certificate: path("broker.pem"), key: path("broker.key") }
    }

    fn client_properties(&self, certificate: bool) -> String {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        let mut lines = format!(
            "security.protocol=SSL\nssl.truststore.type=PEM\nssl.truststore.location={}\n",
            path("ca.pem")
        );
        if certificate {
            let store = path("client.store.pem");
            lines += &format!("ssl.keystore.type=PEM\nssl.keystore.location={store}\n");
        }
        lines
    }
}

/// Lists the topics of another listener of the broker with a client's properties.
fn list_topics(
    broker: &BrokerProcess,
    folder: &TempDir,
    port: u16,
    client: &str,
) -> Result<String> {
    let properties = folder.path().join("client.properties");
    std::fs::write(
        &properties,
        format!("{client}\nrequest.timeout.ms=5000\ndefault.api.timeout.ms=10000\n"),
    )?;
    let address = format!("127.0.0.1:{port}");
    let properties = properties.display().to_string();
    let arguments = ["--bootstrap-server", &address, "--command-config", &properties, "--list"];
    tool(broker, "kafka-topics", &arguments)
}

#[test]
fn a_broker_process_listens_with_tls_and_sasl() -> Result<()> {
    let (data, pki) = (TempDir::new()?, pki()?);
    let (tls, sasl) = (free_port(), free_port());
    let settings = BrokerSettings::default()
        .tls(tls, pki.broker(), true)
        .sasl(sasl, "alice", "secret-1")
        .set("message.max.bytes", "2000000");
    let broker = BrokerProcess::start_with(data.path(), free_port(), settings)?;
    create_topic(&broker, "seen")?;
    for (mechanism, module) in
        [("PLAIN", "plain.PlainLoginModule"), ("SCRAM-SHA-256", "scram.ScramLoginModule")]
    {
        let login = |password: &str| {
            format!(
                "security.protocol=SASL_PLAINTEXT\nsasl.mechanism={mechanism}\n\
                 sasl.jaas.config=org.apache.kafka.common.security.{module} required \
                 username=\"alice\" password=\"{password}\";\n"
            )
        };
        assert_eq!(list_topics(&broker, &data, sasl, &login("secret-1"))?.trim(), "seen");
        assert!(list_topics(&broker, &data, sasl, &login("wrong")).is_err());
    }
    let with_certificate = pki.client_properties(true);
    assert_eq!(list_topics(&broker, &data, tls, &with_certificate)?.trim(), "seen");
    assert!(list_topics(&broker, &data, tls, &pki.client_properties(false)).is_err());
    Ok(())
}

const ROLE: &str = "ANABRANCH_TEST_ROLE";

/// Not a test by itself: what the next test runs and kills.
#[test]
fn a_test_binary_that_waits_to_be_killed() -> Result<()> {
    if env::var(ROLE).is_err() {
        return Ok(());
    }
    println!("broker={}", Broker::shared().address());
    std::thread::park_timeout(LIMIT);
    bail!("nobody killed this process");
}

#[test]
fn a_broker_ends_with_its_test_binary() -> Result<()> {
    // The way that was taken here, and the process, which works everywhere.
    for way in [env::var("ANABRANCH_KAFKA").unwrap_or_default(), "process".to_owned()] {
        if way.contains(':') {
            continue; // a broker that was there before stays
        }
        let folder = TempDir::new()?;
        let mut command = Command::new(env::current_exe()?);
        command.args(["--exact", "a_test_binary_that_waits_to_be_killed", "--nocapture"]);
        command.env(ROLE, "waits").env("ANABRANCH_KAFKA", &way).stdin(Stdio::null());
        let log = folder.path().join("log");
        let mut binary = Process::spawn("test binary", &command, &log)?;
        binary.wait_for_output("broker=127.0.0.1:", Duration::from_secs(300))?;
        let output = binary.output()?;
        let (_, rest) = output.split_once("broker=").context("no address")?;
        let address = rest.lines().next().context("no address")?.to_owned();
        assert!(TcpStream::connect(&address).is_ok(), "{address}");
        binary.kill_hard()?;
        wait_until("end of the broker", LIMIT, || Ok(TcpStream::connect(&address).is_err()))?;
    }
    Ok(())
}

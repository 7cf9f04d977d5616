//! A Kafka broker in a container that ends with the test binary.
//!
//! A static is never dropped and a killed process drops nothing, so the container is on a leash as
//! [`Process`](super::Process) is: a shell inside it reads from a connection of this process, which
//! the kernel closes whatever happens; then it kills the broker, the container ends, and the engine
//! removes it. The leash is laid while the broker starts.

use std::os::unix::process::ExitStatusExt;
use std::pin::Pin;
use std::process::{self, ExitStatus, Output};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use testcontainers_modules::kafka::apache::{KAFKA_PORT, Kafka};
use testcontainers_modules::testcontainers::bollard::Docker;
use testcontainers_modules::testcontainers::bollard::exec::{
    CreateExecOptions, StartExecOptions, StartExecResults,
};
use testcontainers_modules::testcontainers::bollard::query_parameters::ListContainersOptionsBuilder;
use testcontainers_modules::testcontainers::core::ExecCommand;
use testcontainers_modules::testcontainers::runners::AsyncRunner;
use testcontainers_modules::testcontainers::{ContainerAsync, ImageExt};
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::time::{sleep, timeout};

use super::broker_process::tool_arguments;

const TAG: &str = "4.3.1";
const LABEL: &str = "anabranch.test";
/// Long enough for the image to be pulled.
const START_LIMIT: Duration = Duration::from_secs(300);
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
const LEASH: &str = "cat > /dev/null; kill -9 -1";
const TOOLS: &str = "/opt/kafka/bin";
/// The image's listener for clients inside the container.
const INNER_ADDRESS: &str = "localhost:9093";

/// A running container; `runtime` drives its connections.
pub(super) struct Container {
    address: String,
    container: ContainerAsync<Kafka>,
    runtime: Runtime,
    _leash: Mutex<Leash>,
}

type Leash = Pin<Box<dyn AsyncWrite + Send>>;

impl Container {
    /// Starts a broker, if a Docker engine answers and its image is there or can be pulled.
    pub(super) fn start() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("kafka-container")
            .enable_all()
            .build()?;
        let (address, container, leash) = on(&runtime, start)?;
        Ok(Self { address, container, runtime, _leash: Mutex::new(leash) })
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Runs a console tool inside the container.
    pub(super) fn tool(&self, name: &str, arguments: &[&str]) -> Result<Output> {
        let mut command = vec![format!("{TOOLS}/{name}.sh")];
        command.extend(tool_arguments(INNER_ADDRESS, arguments).into_iter().map(str::to_owned));
        on(&self.runtime, || async {
            let mut running = self.container.exec(ExecCommand::new(command)).await?;
            let stdout = running.stdout_to_vec().await?;
            let stderr = running.stderr_to_vec().await?;
            let code = running.exit_code().await?.context("the tool's exit code is unknown")?;
            let status = ExitStatus::from_raw(i32::try_from(code)? << 8);
            Ok(Output { status, stdout, stderr })
        })
    }
}

/// Runs a future to its end on a thread of its own, so that a test may itself be in a runtime.
fn on<T: Send, F: Future<Output = Result<T>>>(
    runtime: &Runtime,
    future: impl FnOnce() -> F + Send,
) -> Result<T> {
    let joined = thread::scope(|scope| scope.spawn(|| runtime.block_on(future())).join());
    joined.map_err(|_| anyhow!("a call to the Docker engine panicked"))?
}

async fn start() -> Result<(String, ContainerAsync<Kafka>, Leash)> {
    static STARTED: AtomicU32 = AtomicU32::new(0);
    let name = format!("{}-{}", process::id(), STARTED.fetch_add(1, Ordering::Relaxed));
    let docker = Docker::connect_with_defaults()?;
    timeout(CONNECT_LIMIT, docker.ping()).await.context("no Docker engine answers")??;
    let image = Kafka::default()
        .with_jvm_image()
        .with_tag(TAG)
        .with_env_var("KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR", "1")
        .with_env_var("KAFKA_TRANSACTION_STATE_LOG_MIN_ISR", "1")
        .with_env_var("KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS", "0")
        .with_env_var("KAFKA_AUTO_CREATE_TOPICS_ENABLE", "false")
        .with_env_var("KAFKA_HEAP_OPTS", "-Xmx768m")
        .with_label(LABEL, &name)
        .with_host_config_modifier(|host| host.auto_remove = Some(true));
    let (container, leash) = tokio::try_join!(
        async {
            let started = timeout(START_LIMIT, image.start()).await;
            started.context("too slow")?.context("cannot start apache/kafka")
        },
        async { timeout(START_LIMIT, hold(&docker, &name)).await.context("no leash")? },
    )?;
    let address = format!("127.0.0.1:{}", container.get_host_port_ipv4(KAFKA_PORT).await?);
    // An engine on another machine publishes its ports there.
    let connected = timeout(CONNECT_LIMIT, TcpStream::connect(&address)).await;
    connected.context("no answer")?.with_context(|| format!("cannot reach {address}"))?;
    Ok((address, container, leash))
}

/// Waits for the container to run and puts it on the leash.
async fn hold(docker: &Docker, name: &str) -> Result<Leash> {
    let label = format!("{LABEL}={name}");
    let id = loop {
        let filters = [("label", vec![label.as_str()])].into();
        let options = ListContainersOptionsBuilder::new().filters(&filters).build();
        let found = docker.list_containers(Some(options)).await?;
        if let Some(id) = found.into_iter().find_map(|container| container.id) {
            break id;
        }
        sleep(Duration::from_millis(50)).await;
    };
    let command = CreateExecOptions {
        attach_stdin: Some(true),
        cmd: Some(vec!["sh", "-c", LEASH]),
        ..CreateExecOptions::default()
    };
    let leash = docker.create_exec(&id, command).await?;
    match docker.start_exec(&leash.id, None::<StartExecOptions>).await? {
        StartExecResults::Attached { input, .. } => Ok(input),
        StartExecResults::Detached => bail!("the engine did not attach to the container"),
    }
}

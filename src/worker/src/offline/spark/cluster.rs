//! The parts of a Spark cluster that run beside this process: its master, and in the other pods of the Job its workers.

use super::app::Installed;
use super::settings::{self, Cluster};
use crate::context::Context;
use crate::failure::{Failure, Result};
use backfill_core::condition::Reason;
use backfill_core::contract::{Engine, Order, Size};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdin, Command};

/// The heap of a daemon: it keeps nothing but who is there.
const DAEMON_MIB: u32 = 192;

/// How long a daemon may take to end when it is told to.
const END_PATIENCE: Duration = Duration::from_secs(10);

/// How long to wait before a worker that has ended is started again. The master may be starting, too.
const START_AGAIN: Duration = Duration::from_secs(2);

/// How often it is looked whether the master listens.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Waits until the master listens. Spark's own parts would not look again for many seconds.
async fn master_listens(host: &str, port: u16) {
    while TcpStream::connect((host, port)).await.is_err() {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// A daemon of Spark. It ends when this value is dropped, and when this process ends, however it does.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    _input: ChildStdin,
}

impl Daemon {
    /// The master of a cluster, at the address of this pod. It listens.
    pub async fn master(installed: &Installed, cluster: &Cluster, scratch: &Path) -> Result<Self> {
        let port = cluster.port.to_string();
        let arguments = ["--host", &cluster.address, "--port", &port];
        let mut master = Self::start(installed, "org.apache.spark.deploy.master.Master", &arguments, cluster, scratch)?;
        let why = tokio::select! {
            () = master_listens(&cluster.address, cluster.port) => return Ok(master),
            ended = master.ended() => format!("has ended: {ended:?}"),
            () = tokio::time::sleep(installed.patience) => format!("was not there after {} s", installed.patience.as_secs()),
        };
        master.end().await;
        Err(Failure::passing(Reason::SparkUnavailable, format!("the master of Spark {why}; it is tried again")))
    }

    /// A worker of a cluster, which gives one executor what the pod has.
    fn worker(installed: &Installed, cluster: &Cluster, size: &Size, scratch: &Path) -> Result<Self> {
        let (cores, memory) = (size.cores.to_string(), settings::mib(settings::executor_heap_bytes(size)));
        let (work, master) = (scratch.join("work"), format!("spark://{}:{}", cluster.host, cluster.port));
        let work = work.to_string_lossy();
        let arguments = ["--host", &cluster.address, "--cores", &cores, "--memory", &memory, "--work-dir", &work, &master];
        Self::start(installed, "org.apache.spark.deploy.worker.Worker", &arguments, cluster, scratch)
    }

    fn start(installed: &Installed, class: &str, arguments: &[&str], cluster: &Cluster, scratch: &Path) -> Result<Self> {
        let file = scratch.join("daemon.properties");
        settings::write_private(&file, &settings::file_of(&settings::trust(&cluster.secret)))?;
        let mut command = Command::new(&installed.python);
        command.arg(&installed.daemon).arg(class).args(arguments).arg("--properties-file").arg(&file);
        command.env("SPARK_DAEMON_MEMORY", format!("{DAEMON_MIB}m")).env("SPARK_LOCAL_DIRS", scratch);
        command.env("SPARK_DAEMON_JAVA_OPTS", format!("-Djava.io.tmpdir=\"{}\"", scratch.display()));
        // What it shows in a browser cannot be switched off: it listens where nobody else is.
        command.env("SPARK_LOCAL_IP", "127.0.0.1").env("LC_ALL", "C.UTF-8").env("TMPDIR", scratch);
        // Not killed on drop: then Python could not end Java. It does so when its input ends.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().map_err(|error| installed.cannot_run(&error))?;
        let mut lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                tracing::debug!(target: "backfill_worker::spark", "{line}");
            }
        });
        let input = child.stdin.take().expect("it is piped");
        Ok(Self { child, _input: input })
    }

    /// Waits until it ends without being told to.
    pub async fn ended(&mut self) -> std::io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Ends it, and with a worker its executors.
    pub async fn end(self) {
        let Self { mut child, _input: input } = self;
        drop(input);
        if tokio::time::timeout(END_PATIENCE, child.wait()).await.is_err() {
            tracing::warn!("a daemon of Spark does not end and is killed");
            child.kill().await.ok();
        }
    }
}

/// Computes for the first pod of the Job until it is told to end. Whether all is done is the first pod's to say.
pub async fn assist(cx: &Context, order: &Order, end: impl Future<Output = ()>) -> Result<()> {
    let Engine::Spark { nodes, .. } = &order.engine else {
        let message = "pod {} of the Job has nothing to do: engine DataFusion computes in one";
        return Err(Failure::permanent(Reason::InvalidRequest, message.replace("{}", &cx.index.to_string())));
    };
    let (installed, cluster) = (Installed::find(), Cluster::find(nodes.saturating_sub(1))?);
    let scratch = tempfile::tempdir_in(&cx.scratch)
        .map_err(|error| Failure::passing(Reason::DiskFull, format!("cannot use the scratch space: {error}")))?;
    cx.stage("computing for the first pod", 1);
    tokio::pin!(end);
    loop {
        tokio::select! {
            () = master_listens(&cluster.host, cluster.port) => {}
            () = &mut end => return Ok(()),
        }
        let mut worker = Daemon::worker(&installed, &cluster, &order.size, scratch.path())?;
        tokio::select! {
            ended = worker.ended() => tracing::warn!(?ended, "the worker of Spark has ended and is started again"),
            () = &mut end => {
                worker.end().await;
                return Ok(());
            }
        }
        tokio::select! {
            () = tokio::time::sleep(START_AGAIN) => {}
            () = &mut end => return Ok(()),
        }
    }
}

//! The program that runs Spark: started, talked to in lines of JSON, and ended.
//!
//! It ends when its standard input does. So it does not outlive this process, however that ends.

use super::types::Column;
use crate::failure::{Failure, Result};
use backfill_core::condition::Reason;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;

/// How many of its last words are kept, for the message when it ends unexpectedly.
const TAIL_LINES: usize = 40;

/// How long it may take to end when it is told to.
const END_PATIENCE: Duration = Duration::from_secs(20);

/// Where the program and what it needs are installed. Images say so by environment variables.
#[derive(Clone, Debug)]
pub struct Installed {
    /// The interpreter that has PySpark.
    pub python: PathBuf,
    app: PathBuf,
    /// Runs the daemons of a cluster.
    pub daemon: PathBuf,
    /// The folder of the jars that Spark does not bring.
    pub jars: Option<PathBuf>,
    /// How long Spark may take to start and to find an executor.
    pub patience: Duration,
}

impl Installed {
    /// As the environment says.
    pub fn find() -> Self {
        let path = |name: &str, default: &str| PathBuf::from(std::env::var_os(name).unwrap_or_else(|| default.into()));
        let app = path("BACKFILL_SPARK_APP", "/usr/local/share/backfill-worker/spark/stage.py");
        let beside = app.with_file_name("jars");
        let jars = path("BACKFILL_SPARK_JARS", &beside.to_string_lossy());
        let seconds = std::env::var("BACKFILL_SPARK_START_SECONDS").ok().and_then(|text| text.parse().ok());
        Self {
            python: path("BACKFILL_SPARK_PYTHON", "python3"),
            daemon: app.with_file_name("daemon.py"),
            app,
            jars: jars.is_dir().then_some(jars),
            patience: Duration::from_secs(seconds.unwrap_or(600)),
        }
    }

    /// Python itself does not run.
    pub fn cannot_run(&self, error: &std::io::Error) -> Failure {
        let python = self.python.display();
        Failure::permanent(Reason::SparkUnavailable, format!("cannot run {python}: {error}; use the image with Spark"))
    }
}

/// What the program says.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Said {
    /// Spark is there, and lacks something that may still come.
    Waiting {
        /// What is not there.
        what: String,
    },
    /// Spark is there.
    Ready {},
    /// What the transformation returns.
    Columns(Vec<Column>),
    /// How far it is.
    Progress(Progress),
    /// All is written.
    Staged {
        /// What became of the rows of each window, in their order.
        windows: Vec<Told>,
    },
    /// It cannot be done.
    Failed {
        /// In one word.
        kind: Kind,
        /// For a person.
        message: String,
    },
}

/// How far staging is.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// Windows that are written.
    pub windows: u64,
    /// Tasks of the running stages.
    #[serde(default)]
    pub tasks: u64,
    /// Of these, tasks that have ended.
    #[serde(default)]
    pub ended: u64,
    /// Rows that were written since it was last told.
    #[serde(default)]
    pub rows: u64,
}

/// What became of the rows of one window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Told {
    /// Rows without a key or an event time.
    pub null_key: u64,
    /// Rows outside the window.
    pub outside: u64,
    /// Of these, rows stamped exactly with the window's stop.
    pub at_stop: u64,
    /// The others.
    pub kept: u64,
}

/// Why something cannot be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// A source cannot be read.
    Source,
    /// The transformation fails.
    Transform,
    /// A value does not fit its type.
    Cast,
    /// Memory does not suffice.
    Memory,
    /// The scratch space is full.
    Disk,
    /// A store refuses the credentials.
    Auth,
    /// The table's folder cannot be written.
    Write,
    /// Spark itself is gone or never came.
    Spark,
}

impl Kind {
    /// The failure of the step.
    pub fn failure(self, message: String) -> Failure {
        match self {
            Self::Source => Failure::permanent(Reason::SourceNotFound, message),
            Self::Transform => Failure::permanent(Reason::TransformFailed, message),
            Self::Cast => Failure::permanent(Reason::CastOverflow, message),
            Self::Memory => Failure::permanent(Reason::OutOfMemory, format!("{message}; choose a larger cluster template")),
            Self::Disk => Failure::permanent(Reason::DiskFull, format!("{message}; choose a cluster template with more scratch")),
            Self::Auth => {
                let message = format!("the object store refuses the credentials: {message}; check the store's credentialsSecret");
                Failure::permanent(Reason::OfflineAuth, message)
            }
            Self::Write => Failure::passing(Reason::OfflineUnavailable, message),
            Self::Spark => Failure::passing(Reason::SparkUnavailable, message),
        }
    }
}

/// The running program.
#[derive(Debug)]
pub struct App {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    errors: JoinHandle<()>,
    tail: Arc<Mutex<VecDeque<String>>>,
    state: State,
}

/// What it does, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    Writing,
    Gone,
}

impl App {
    /// Starts it with the settings of a file.
    pub fn start(installed: &Installed, properties: &Path, scratch: &Path) -> Result<Self> {
        let mut command = Command::new(&installed.python);
        command.arg(&installed.app).env("BACKFILL_SPARK_PROPERTIES", properties).env("TMPDIR", scratch);
        // Spark's daemons bind what they cannot switch off to the loopback; names of files are UTF-8 whatever the machine says.
        command.env("SPARK_LOCAL_IP", "127.0.0.1").env("LC_ALL", "C.UTF-8").env("PYTHONUNBUFFERED", "1");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A group of its own: what is sent to ours by a terminal does not reach it, and it ends by its input's end.
        let spawned = command.process_group(0).kill_on_drop(true).spawn();
        let mut child = spawned.map_err(|error| installed.cannot_run(&error))?;
        let tail = Arc::new(Mutex::new(VecDeque::new()));
        let errors = tokio::spawn(listen(child.stderr.take().expect("it is piped"), Arc::clone(&tail)));
        let input = child.stdin.take().expect("it is piped");
        let output = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        Ok(Self { child, input, output, errors, tail, state: State::Idle })
    }

    /// Waits until Spark is there, with an executor.
    pub async fn ready(&mut self, patience: Duration) -> Result<()> {
        let mut lacks = None;
        let heard = tokio::time::timeout(patience, async {
            loop {
                match self.hear().await? {
                    Said::Waiting { what } => lacks = Some(what),
                    Said::Ready {} => return Ok(()),
                    said => return Err(unexpected(&said)),
                }
            }
        });
        heard.await.unwrap_or_else(|_| {
            let (seconds, words) = (patience.as_secs(), self.last_words());
            let message = match lacks {
                Some(what) => format!("Spark waits since {seconds} s: {what}; see why the other pods of the Job do not run"),
                None => format!("Spark was not there after {seconds} s{words}; it is tried again"),
            };
            Err(Failure::passing(Reason::SparkUnavailable, message))
        })
    }

    /// Whether it can be asked something else: it answers, and nothing that it was asked before can still write.
    pub fn is_idle(&self) -> bool {
        self.state == State::Idle
    }

    /// Says something.
    pub async fn say(&mut self, message: &Say<'_>) -> Result<()> {
        if let Say::Stage(_) = message {
            self.state = State::Writing;
        }
        let mut line = serde_json::to_string(message).expect("messages have string keys");
        line.push('\n');
        let written = async {
            self.input.write_all(line.as_bytes()).await?;
            self.input.flush().await
        };
        match written.await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.ended().await),
        }
    }

    /// The next thing that it says. A failure that it tells is an error.
    pub async fn hear(&mut self) -> Result<Said> {
        let line = self.output.next_line().await.ok().flatten();
        let Some(line) = line else { return Err(self.ended().await) };
        match serde_json::from_str(&line) {
            Ok(Said::Failed { kind, message }) => Err(kind.failure(message)),
            Ok(said) => {
                if let Said::Staged { .. } = said {
                    self.state = State::Idle;
                }
                Ok(said)
            }
            Err(error) => {
                self.state = State::Gone;
                let message = format!("the program that runs Spark said what is not understood: {error}");
                Err(Failure::permanent(Reason::SparkUnavailable, message))
            }
        }
    }

    /// Ends it. When this returns, nothing of it writes any more.
    pub async fn end(self) {
        let Self { mut child, input, output, errors, .. } = self;
        drop((input, output));
        // Java holds the other end of standard error as long as it runs.
        let both = async { (child.wait().await, errors.await) };
        if tokio::time::timeout(END_PATIENCE, both).await.is_err() {
            tracing::warn!("the program that runs Spark does not end and is killed");
            child.kill().await.ok();
        }
    }

    /// Why it ended without being told to.
    async fn ended(&mut self) -> Failure {
        self.state = State::Gone;
        let status = tokio::time::timeout(END_PATIENCE, self.child.wait()).await;
        let status =
            status.ok().and_then(std::result::Result::ok).map_or_else(|| "no status".to_owned(), |status| status.to_string());
        let words = self.last_words();
        let kind = if words.contains("OutOfMemoryError") { Kind::Memory } else { Kind::Spark };
        kind.failure(format!("the program that runs Spark ended unexpectedly ({status}){words}"))
    }

    /// The last lines that it left on standard error which are no stack.
    fn last_words(&self) -> String {
        let tail = self.tail.lock().expect("nobody panics with it");
        let plain = |line: &&String| !line.starts_with(['\t', ' ']) && !line.contains("\"stacktrace\"");
        let mut last: Vec<&str> = tail.iter().filter(plain).rev().take(3).map(String::as_str).collect();
        last.reverse();
        let words: String = last.join(" | ").chars().take(600).collect();
        if words.is_empty() { words } else { format!(": {words}") }
    }
}

/// Something that does not answer what was said.
pub fn unexpected(said: &Said) -> Failure {
    let message = format!("the program that runs Spark answered what was not asked: {said:?}");
    Failure::permanent(Reason::SparkUnavailable, message)
}

async fn listen(stderr: impl AsyncRead + Unpin, tail: Arc<Mutex<VecDeque<String>>>) {
    let mut lines = BufReader::new(stderr).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        tracing::debug!(target: "backfill_worker::spark", "{line}");
        let mut tail = tail.lock().expect("nobody panics with it");
        if tail.len() == TAIL_LINES {
            tail.pop_front();
        }
        tail.push_back(line);
    }
}

/// A message of the worker, under its name.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Say<'a> {
    /// Parse, judge and analyse.
    Analyse(&'a Value),
    /// Compute and write.
    Stage(&'a Value),
}

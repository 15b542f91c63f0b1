//! Processes and folders that never outlive the test process, however it ends.

use anyhow::{Context, Result, bail};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, mpsc};

/// A program of the cluster. It is killed on drop, and by the kernel when this process ends in any other way.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program; what it prints goes into `<folder>/<name>.log`.
    pub fn start(program: &Path, arguments: &[String], folder: &Path) -> Result<Self> {
        Self::start_with(program, arguments, &[], folder)
    }

    /// The same, with variables in its environment.
    pub fn start_with(program: &Path, arguments: &[String], environment: &[(&str, String)], folder: &Path) -> Result<Self> {
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let command = [&[program.display().to_string()], arguments].concat();
        Self::start_as(&name, &command, environment, folder)
    }

    /// Starts a command under a name of its own, which is that of its log, too. What it printed as this name before is kept.
    pub fn start_as(name: &str, command_line: &[String], environment: &[(&str, String)], folder: &Path) -> Result<Self> {
        let name = name.to_owned();
        let log = folder.join(format!("{name}.log"));
        let output = std::fs::File::options().create(true).append(true).open(&log)?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).args(command_line);
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = spawn(command).context("setpriv (Debian's util-linux) is needed to start the test cluster")?;
        Ok(Self { name, child, log })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends the program at once.
    pub fn kill(&mut self) {
        // Both fail only for a process that has ended and been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Fails with the end of the log when the program has ended.
    pub fn check(&mut self) -> Result<()> {
        let Some(status) = self.child.try_wait()? else { return Ok(()) };
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let last: Vec<&str> = log.lines().rev().take(20).collect();
        bail!("{} ended with {status}:\n{}", self.name, last.into_iter().rev().collect::<Vec<_>>().join("\n"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Spawns from a thread that never ends: the kernel sends the death signal when the *thread* that spawned a process ends, and the
/// threads of tests come and go.
fn spawn(command: Command) -> std::io::Result<Child> {
    type Order = (Command, mpsc::Sender<std::io::Result<Child>>);
    static SPAWNER: LazyLock<mpsc::Sender<Order>> = LazyLock::new(|| {
        let (orders, received) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, reply) in received {
                // Nobody waits for a reply only when the asking thread has panicked.
                let _ = reply.send(command.spawn());
            }
        });
        orders
    });
    let (reply, answer) = mpsc::channel();
    SPAWNER.send((command, reply)).expect("the spawner never ends");
    answer.recv().expect("the spawner always replies")
}

/// A temporary folder that vanishes on drop, and when this process ends in any other way.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    sweeper: Child,
}

/// What the names of folders begin with; the id of the owning process and a number follow.
const PREFIX: &str = "backfill-e2e-";

/// Removes the folder, and the cgroups of nodes that bear its name, when its standard input ends, which the kernel closes for a killed
/// owner. Programs that are just being killed may still write into it, or be members of a cgroup.
const SWEEP: &str = r#"
cat > /dev/null
groups() { find /sys/fs/cgroup -depth -type d \( -path "*/$1" -o -path "*/$1/*" \) "$2"; }
for i in $(seq 50); do
    groups "${1##*/}" -delete
    rm -rf -- "$1" && [ -z "$(groups "${1##*/}" -print)" ] && exit
    sleep 0.1
done 2> /dev/null
"#;

impl Folder {
    /// A new empty folder.
    pub fn create() -> Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        sweep_the_dead();
        let name = format!("{PREFIX}{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).with_context(|| path.display().to_string())?;
        let mut command = Command::new("sh");
        command.args(["-c", SWEEP, "sweeper"]).arg(&path).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // A group of its own: Ctrl-C at the terminal is not for the sweeper.
        let sweeper = command.process_group(0).spawn()?;
        Ok(Self { path, sweeper })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(self.sweeper.stdin.take());
        // An error leaves the folder to the next start.
        let _ = self.sweeper.wait();
    }
}

/// Removes the folders of processes that are gone together with their sweepers, as after a reset of the machine.
fn sweep_the_dead() {
    let Ok(entries) = std::fs::read_dir(std::env::temp_dir()) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split_once('-')?.0.parse::<u32>().ok());
        if owner.is_some_and(|owner| !Path::new(&format!("/proc/{owner}")).exists()) {
            // Another start may be removing it, too.
            let _ = Command::new("sh").args(["-c", SWEEP, "sweeper"]).arg(entry.path()).stdin(Stdio::null()).status();
        }
    }
}

//! A process that stops itself and is continued.

use crate::support::Ended;
use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a process may take from one point to the next.
const LIMIT: Duration = Duration::from_secs(120);

/// The program, running or stopped. It ends with the value.
pub struct Running(Child);

impl Running {
    pub fn start(command: &mut Command) -> Self {
        Self(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program runs"))
    }

    /// Waits until it stops itself; false when it ends instead.
    pub fn stops(&mut self) -> bool {
        let deadline = Instant::now() + LIMIT;
        while self.0.try_wait().expect("a child").is_none() {
            if self.is_stopped() {
                return true;
            }
            assert!(Instant::now() < deadline, "the program neither stops nor ends");
            std::thread::sleep(Duration::from_millis(2));
        }
        false
    }

    fn is_stopped(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap_or_default();
        // The name of the program may hold anything; the state follows the last parenthesis.
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    }

    /// Continues it.
    pub fn goes_on(&self) {
        let sent = Command::new("kill").args(["-CONT", &self.0.id().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "SIGCONT is sent");
    }

    /// Continues it as often as it stops, until it ends; its exit code and the one line that it printed.
    pub fn ends(mut self) -> Ended {
        while self.stops() {
            self.goes_on();
        }
        self.ended()
    }

    /// The exit code and the one line of a process that has ended.
    pub fn ended(&mut self) -> Ended {
        let status = self.0.wait().expect("a child");
        let (mut text, mut error) = (String::new(), String::new());
        self.0.stdout.take().expect("a pipe").read_to_string(&mut text).expect("UTF-8");
        self.0.stderr.take().expect("a pipe").read_to_string(&mut error).expect("UTF-8");
        assert!(!error.contains("panicked"), "{error}");
        let json = serde_json::from_str(text.trim()).unwrap_or_else(|_| panic!("no line of JSON, {status}: {text}{error}"));
        Ended { json, code: status.code().unwrap_or(-1) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

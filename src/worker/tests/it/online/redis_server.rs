//! A Redis server of the test's own, on a free port of the loopback interface.

use crate::support::free_port;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A server that ends with the value.
pub struct RedisServer {
    child: Child,
    pub port: u16,
    _folder: tempfile::TempDir,
}

impl RedisServer {
    /// Starts a server with further arguments, and waits until it answers.
    pub fn start(arguments: &[&str]) -> Self {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let port = free_port();
            let folder = tempfile::tempdir().expect("a folder");
            let mut child = Command::new("redis-server")
                .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"])
                .arg(folder.path())
                .args(arguments)
                .stdout(Stdio::null())
                .spawn()
                .expect("redis-server is missing; install it: apt-get install -y redis-server");
            // Another process may have taken the port in between: then this server ends, and the next port is tried.
            while child.try_wait().expect("a child").is_none() {
                assert!(Instant::now() < deadline, "redis-server answers within 20 s");
                if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                    return Self { child, port, _folder: folder };
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port)
    }

    pub fn connection(&self) -> redis::Connection {
        redis::Client::open(self.url()).and_then(|client| client.get_connection()).expect("a server of our own")
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

//! Ports for servers that cannot be told to take any free one.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};

/// A port of the loopback interface that nobody uses, and that this process has not returned before. It is below the range from which
/// the kernel takes ports by itself (32768 and up): no connection takes it before the server does.
pub fn free_port() -> u16 {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    // Processes that begin at about the same time have ids that follow each other.
    let first = std::process::id().wrapping_mul(101);
    let ports = (0..12_000).map(|_| first.wrapping_add(COUNT.fetch_add(1, Ordering::Relaxed)) % 12_000 + 20_000);
    let mut ports = ports.map(|port| u16::try_from(port).expect("at most 32 000"));
    ports.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).expect("a free port")
}

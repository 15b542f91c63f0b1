//! Ports for programs that cannot be told to take any free one.

use anyhow::{Result, bail};
use std::net::{IpAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

/// Below the range from which the kernel takes the ports of connections and of listeners that leave the choice to it (32768 and up):
/// none of them takes the port before the program does.
const PORTS: std::ops::Range<u32> = 20_000..32_000;

/// A port of this address that nobody uses, and that this process has not returned before.
pub fn free(address: IpAddr) -> Result<u16> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    for _ in PORTS {
        // Processes that begin at about the same time have ids that follow each other.
        let next = std::process::id().wrapping_mul(101).wrapping_add(COUNT.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(PORTS.start + next % (PORTS.end - PORTS.start))?;
        match TcpListener::bind((address, port)) {
            Ok(_) => return Ok(port),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error.into()),
        }
    }
    bail!("no port of {address} from {} to {} is free", PORTS.start, PORTS.end - 1)
}

//! Named points at which a test kills or stops the process. Compiled to nothing outside test builds.

/// Dies or stops here when the environment says so: `FAILPOINT=<name>:kill` or `FAILPOINT=<name>:stop`, several with commas.
///
/// `stop` raises SIGSTOP, so that a test can let another attempt overtake this one and then continue it.
#[cfg(feature = "failpoints")]
pub fn reach(name: &str) {
    let Ok(wanted) = std::env::var("FAILPOINT") else { return };
    let mut points = wanted.split(',').filter_map(|point| point.split_once(':'));
    let Some((_, what)) = points.find(|(point, _)| *point == name) else { return };
    let signal = match what {
        "kill" => "-KILL",
        "stop" => "-STOP",
        other => panic!("FAILPOINT={name}:{other}: use kill or stop"),
    };
    let pid = std::process::id().to_string();
    let status = std::process::Command::new("kill").args([signal, &pid]).status();
    assert!(status.is_ok_and(|s| s.success()), "kill {signal} {pid} works");
}

/// Does nothing.
#[cfg(not(feature = "failpoints"))]
pub fn reach(_: &str) {}

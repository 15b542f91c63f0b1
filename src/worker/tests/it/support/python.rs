//! Other programs than ours, in Python: see `tests/python`.

use serde_json::Value;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Runs a script of `tests/python` with a request and returns the lines of its answer.
#[track_caller]
pub fn python(script: &str, request: &Value) -> Vec<Value> {
    let python = std::env::var("BACKFILL_TEST_PYTHON").expect("BACKFILL_TEST_PYTHON is not set; run the tests by: make test");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python").join(script);
    let mut child = Command::new(python)
        .arg(&script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("Python runs");
    // The script reads all of the request before it answers.
    child.stdin.take().expect("a pipe").write_all(request.to_string().as_bytes()).expect("the script reads");
    let output = child.wait_with_output().expect("the script ends");
    assert!(output.status.success(), "{}: {}", script.display(), String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("the answer is UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
}

//! The dashboard's page in a real browser: Debian's chromium, driven by Playwright from `tests/dashboard`.

use std::path::Path;
use std::process::Command;

#[test]
fn the_page_holds_in_a_real_browser() {
    let python =
        std::env::var("BACKFILL_BROWSER_PYTHON").expect("BACKFILL_BROWSER_PYTHON names a Python with Playwright; run: make test");
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let shots = Path::new(env!("CARGO_TARGET_TMPDIR")).join("dashboard");
    let ended = Command::new(python)
        .arg(here.join("tests/dashboard/test_page.py"))
        .arg(here.join("src/dashboard/page.html"))
        .arg(&shots)
        .output()
        .expect("Python runs");
    let said = format!("{}{}", String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    assert!(ended.status.success(), "{said}");
    println!("{said}screenshots: {}", shots.display());
}

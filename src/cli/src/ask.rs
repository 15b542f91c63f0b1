//! Questions before something is replaced or deleted.

use crate::failure::{Failure, Result};
use std::io::{IsTerminal, Write};

/// Goes on when the answer is yes. Without a terminal `--yes` has to say it.
pub fn confirm(question: &str, yes: bool) -> Result<()> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage("nobody can be asked: standard input is not a terminal").hint("give --yes"));
    }
    eprint!("{question} [y/N] ");
    let failed = |error: std::io::Error| Failure::new(format!("cannot ask: {error}"));
    std::io::stderr().flush().map_err(failed)?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(failed)?;
    match answer.trim().to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::new("not confirmed; nothing was changed")),
    }
}

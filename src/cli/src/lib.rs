//! `kubectl features`: turns flags into a FeatureSetBackfill, and its status into lines.
//!
//! Decides nothing about backfills: what a request means is [`backfill_core::request`], the same as in the operator. Data go to
//! standard output, progress and questions to standard error.

mod args;
mod ask;
mod change;
mod check;
mod cluster;
mod complete;
mod coverage;
mod create;
mod dashboard;
mod delete;
mod environment;
mod events;
mod failure;
mod feast;
mod find;
mod follow;
mod lane;
mod list;
mod live;
mod logs;
mod lookup;
mod online;
mod preview;
mod print;
mod reference;
mod sets;
mod status;
mod templates;
mod version;

use args::{Backfill, Command, Export, Features, Online, Sets, Templates, Verb};
use clap::{CommandFactory, Parser};
use failure::{Exit, Failure, Result};
use std::ffi::OsString;
use std::process::ExitCode;

pub use reference::{command, markdown};

/// Runs a command line. Errors are printed.
pub fn main(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let words: Vec<OsString> = words.into_iter().collect();
    if words.get(1).is_some_and(|word| word == "__complete") {
        let unfinished: Vec<String> = words.iter().skip(2).map(|word| word.to_string_lossy().into_owned()).collect();
        return ended(complete::complete(&unfinished));
    }
    let features = match Features::try_parse_from(words) {
        Ok(features) => features,
        Err(error) => {
            // Nobody reads any more.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    ended(run(features))
}

fn ended(command: impl Future<Output = Result<Exit>>) -> ExitCode {
    // Fails when a choice was made before, which only tests do.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(command),
        Err(error) => Err(Failure::new(format!("cannot start: {error}"))),
    };
    ExitCode::from(
        ended
            .unwrap_or_else(|failure| {
                eprintln!("{failure}");
                failure.exit
            })
            .code(),
    )
}

async fn run(features: Features) -> Result<Exit> {
    let Features { connection, command } = features;
    match command {
        Command::Backfill(backfill) => match *backfill {
            Backfill { verb: Some(verb), .. } => run_verb(&connection, verb).await,
            Backfill { verb: None, create } => create::create(&connection, &create).await,
        },
        Command::ExecutionStatus { execution_id, output } => status::status(&connection, &execution_id, output).await,
        Command::Sets(Sets::List { selection, output }) => sets::list(&connection, &selection, output).await,
        Command::Sets(Sets::Get { name, output }) => sets::get(&connection, &name, output).await,
        Command::Sets(Sets::Coverage { name, output }) => sets::coverage(&connection, &name, output).await,
        Command::Online(Online::Get(asked)) => online::get(&connection, &asked).await,
        Command::Templates(Templates::List { output }) => templates::list(&connection, output).await,
        Command::Check { pre } => check::check(&connection, pre).await,
        Command::Export(Export::Feast { name }) => feast::export(&connection, &name).await,
        Command::Dashboard { port, output, selection } => dashboard::dashboard(&connection, port, output, &selection).await,
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Features::command(), "kubectl-features", &mut std::io::stdout());
            Ok(Exit::Ok)
        }
        Command::Version { client, output } => version::version(&connection, client, output).await,
    }
}

async fn run_verb(connection: &args::Connection, verb: Verb) -> Result<Exit> {
    match verb {
        Verb::List { selection, feature_set, phase, output } => {
            list::list(connection, &selection, feature_set.as_deref(), phase.as_deref(), output).await
        }
        Verb::Get { one, output } => list::get(connection, &one.name, output).await,
        Verb::Status { one, output } => status::status(connection, &one.name, output).await,
        Verb::Watch { one, timeout, output } => follow::watch(connection, &one.name, timeout, output).await,
        Verb::Wait { one, timeout } => follow::wait(connection, &one.name, timeout).await,
        Verb::Logs { one, follow, step, tail } => logs::logs(connection, &one.name, follow, step, tail).await,
        Verb::Events { one } => events::events(connection, &one.name).await,
        Verb::Plan { one, apply, yes, timeout, output } => {
            change::plan(connection, &one.name, change::Planned { apply, yes, timeout, output }).await
        }
        Verb::Cancel { one } => change::cancel(connection, &one.name).await,
        Verb::Suspend { one } => change::suspend(connection, &one.name, true).await,
        Verb::Resume { one } => change::suspend(connection, &one.name, false).await,
        Verb::Retry { again } => change::again(connection, &again, change::Which::Failed).await,
        Verb::Rerun { again } => change::again(connection, &again, change::Which::Ended).await,
        Verb::Undo(undo) => change::undo(connection, &undo).await,
        Verb::Delete { names, yes, wait } => delete::delete(connection, &names, yes, wait).await,
        Verb::Prune(prune) => delete::prune(connection, &prune).await,
    }
}

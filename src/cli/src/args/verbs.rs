//! What can be done with backfills that there are.

use super::{Everywhere, Follow, ModeName, One, Output, StepName, duration};
use clap::{Args, Subcommand};
use std::time::Duration;

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Lists backfills, the newest first
    List {
        #[command(flatten)]
        selection: Everywhere,
        /// Only those of this feature set
        #[arg(long, visible_alias = "name", value_name = "NAME")]
        feature_set: Option<String>,
        /// Only those in this phase, such as running
        #[arg(long, value_name = "WORD")]
        phase: Option<String>,
        #[command(flatten)]
        output: Output,
    },
    /// Prints a backfill
    Get {
        #[command(flatten)]
        one: One,
        #[command(flatten)]
        output: Output,
    },
    /// Says how a backfill stands and what it did
    Status {
        #[command(flatten)]
        one: One,
        #[command(flatten)]
        output: Output,
    },
    /// Shows a backfill's progress until its end; the exit code tells it
    Watch {
        #[command(flatten)]
        one: One,
        /// How long to stay, such as 30m
        #[arg(long, value_name = "TIME", value_parser = duration)]
        timeout: Option<Duration>,
        /// With json: one document per line and change
        #[command(flatten)]
        output: Output,
    },
    /// Waits for a backfill's end; the exit code tells it
    Wait {
        #[command(flatten)]
        one: One,
        /// How long to wait, such as 30m
        #[arg(long, value_name = "TIME", value_parser = duration)]
        timeout: Option<Duration>,
    },
    /// Prints the logs of a backfill's pods
    Logs {
        #[command(flatten)]
        one: One,
        /// Stays until the backfill's end
        #[arg(short, long)]
        follow: bool,
        /// Only of this step
        #[arg(long, value_enum)]
        step: Option<StepName>,
        /// Only the last lines
        #[arg(long, value_name = "LINES")]
        tail: Option<i64>,
    },
    /// Prints the events of a backfill and of its Jobs and pods
    Events {
        #[command(flatten)]
        one: One,
    },
    /// Waits for a plan and shows it; exit code 10 when it would change something
    Plan {
        #[command(flatten)]
        one: One,
        /// Publishes the plan
        #[arg(long)]
        apply: bool,
        /// Asks nothing
        #[arg(short, long)]
        yes: bool,
        /// How long to wait, such as 30m
        #[arg(long, value_name = "TIME", value_parser = duration)]
        timeout: Option<Duration>,
        #[command(flatten)]
        output: Output,
    },
    /// Ends a backfill; what is published stays published
    Cancel {
        #[command(flatten)]
        one: One,
    },
    /// Stops a backfill's pods until it is resumed
    Suspend {
        #[command(flatten)]
        one: One,
    },
    /// Lets a held backfill go on
    Resume {
        #[command(flatten)]
        one: One,
    },
    /// Runs a failed or cancelled backfill again
    Retry {
        #[command(flatten)]
        again: Again,
    },
    /// Runs an ended backfill again, also one that had succeeded
    Rerun {
        #[command(flatten)]
        again: Again,
    },
    /// Takes a backfill back: its interval holds again what it held before
    Undo(Undo),
    /// Deletes backfills; a running one is broken off first
    Delete {
        /// The names; @latest for the newest
        #[arg(required = true)]
        names: Vec<String>,
        /// Asks nothing
        #[arg(short, long)]
        yes: bool,
        /// Waits until they are gone
        #[arg(long)]
        wait: bool,
    },
    /// Deletes backfills that ended long ago; their ledger stays
    Prune(Prune),
}

/// What takes a backfill back.
#[derive(Args, Clone, Debug)]
pub struct Undo {
    #[command(flatten)]
    pub one: One,
    /// Says why
    #[arg(long, value_name = "TEXT")]
    pub comment: Option<String>,
    /// The size of the Jobs
    #[arg(long, value_name = "NAME")]
    pub cluster_template: Option<String>,
    /// The name of the backfill that undoes. Default: undo- and the name
    #[arg(long, value_name = "NAME")]
    pub backfill_name: Option<String>,
    /// Computes and checks only
    #[arg(long, value_enum, ignore_case = true, default_value_t = ModeName::Apply)]
    pub mode: ModeName,
    /// Asks nothing
    #[arg(short, long)]
    pub yes: bool,
    #[command(flatten)]
    pub output: Output,
    #[command(flatten)]
    pub follow: Follow,
}

/// Which backfills are deleted.
#[derive(Args, Clone, Debug)]
pub struct Prune {
    /// Ended longer ago than this, such as 30d
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "30d")]
    pub older_than: Duration,
    /// Keeps the newest of each feature set
    #[arg(long, value_name = "NUMBER", default_value_t = 5)]
    pub keep: usize,
    /// Also those that failed or were cancelled
    #[arg(long)]
    pub failed: bool,
    /// Deletes nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Asks nothing
    #[arg(short, long)]
    pub yes: bool,
    #[command(flatten)]
    pub selection: Everywhere,
}

/// Another run of a backfill.
#[derive(Args, Clone, Debug)]
pub struct Again {
    #[command(flatten)]
    pub one: One,
    /// The run's name. Default: the time and five random characters
    #[arg(long, value_name = "ID")]
    pub run_id: Option<String>,
    /// Asks nothing
    #[arg(short, long)]
    pub yes: bool,
    #[command(flatten)]
    pub follow: Follow,
}

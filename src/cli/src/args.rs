//! The command line. What it means is elsewhere.

mod verbs;

use backfill_core::api::Mode;
use backfill_core::contract::Step;
use backfill_core::time::{parse_duration, parse_time};
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;
pub use verbs::{Again, Prune, Undo, Verb};

/// Replaces the data of feature sets: all of it, or an interval of event time, offline and online.
#[derive(Debug, Parser)]
#[command(name = "kubectl-features", bin_name = "kubectl features", version, disable_help_subcommand = true)]
#[command(after_help = "\
Exit codes: 0 ok, 1 error, 2 wrong usage, 3 backfill failed, 4 backfill cancelled, 5 the entity has no online row, 10 the plan
would change something, 124 timed out, 130 interrupted.")]
pub struct Features {
    #[command(flatten)]
    pub connection: Connection,
    #[command(subcommand)]
    pub command: Command,
}

/// Which cluster, who, and where.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Cluster")]
pub struct Connection {
    /// The environment: a namespace with a feature store, by its own name, its label featureset.dev/environment, or the
    /// configuration file
    #[arg(long, global = true, value_name = "NAME")]
    pub environment: Option<String>,
    /// The namespace
    #[arg(short, long, global = true, value_name = "NAME")]
    pub namespace: Option<String>,
    /// The kubeconfig file
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// The kubeconfig's cluster
    #[arg(long, global = true, value_name = "NAME")]
    pub cluster: Option<String>,
    /// The kubeconfig's user
    #[arg(long, global = true, value_name = "NAME")]
    pub user: Option<String>,
    /// Act as this user
    #[arg(long = "as", global = true, value_name = "USER")]
    pub impersonate: Option<String>,
    /// Act as a member of this group; may be given several times
    #[arg(long = "as-group", global = true, value_name = "GROUP", action = ArgAction::Append)]
    pub impersonate_group: Vec<String>,
    /// How long a single request may take, such as 10s or 1m; 0 for ever
    #[arg(long, global = true, value_name = "TIME", value_parser = duration)]
    pub request_timeout: Option<Duration>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Creates a backfill, or follows, changes and lists those that there are
    Backfill(Box<Backfill>),
    /// Says how an execution stands (the same as `backfill status`)
    ExecutionStatus {
        /// The backfill's name, as it was printed when it was created
        #[arg(long, value_name = "NAME")]
        execution_id: String,
        #[command(flatten)]
        output: Output,
    },
    /// Feature sets, and what was replaced in them
    #[command(subcommand)]
    Sets(Sets),
    /// What the online store serves
    #[command(subcommand)]
    Online(Online),
    /// Cluster templates: how large Jobs are
    #[command(subcommand)]
    Templates(Templates),
    /// Looks whether everything is there that backfills need
    Check {
        /// Before an installation: only what the cluster has to bring
        #[arg(long)]
        pre: bool,
    },
    /// Definitions for other tools
    #[command(subcommand)]
    Export(Export),
    /// A page of all backfills, served on loopback or written to a file
    Dashboard {
        /// The port; 0 for any that is free
        #[arg(long, default_value_t = 8765)]
        port: u16,
        /// Writes a snapshot instead
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        #[command(flatten)]
        selection: Everywhere,
    },
    /// Prints a script that completes commands and names in a shell
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Versions of this program and of the operator
    Version {
        /// Only of this program: asks no cluster
        #[arg(long)]
        client: bool,
        /// As json or yaml
        #[arg(short, long, value_enum)]
        output: Option<Structured>,
    },
}

#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Backfill {
    #[command(subcommand)]
    pub verb: Option<Verb>,
    #[command(flatten)]
    pub create: Create,
}

/// What a new backfill is to do.
#[derive(Args, Clone, Debug)]
pub struct Create {
    /// The feature set, by its name or its view, in any case
    #[arg(long = "feature-set", visible_alias = "name", required = true, value_name = "NAME")]
    pub feature_set: Option<String>,
    /// Replaces all data. Times, when given too, bound what is filled in again
    #[arg(long = "reset-backfill", visible_alias = "reset")]
    pub reset: bool,
    /// The first event time to replace, UTC: 2024-05-01, 2024-05-01T12:30:00 or "2024-05-01 12:30:00"; Z is welcome
    #[arg(long, value_name = "TIME", value_parser = time("--start-time"))]
    pub start_time: Option<String>,
    /// The first event time not to replace, in the same formats. Default: now
    #[arg(long, value_name = "TIME", value_parser = time("--stop-time"))]
    pub stop_time: Option<String>,
    /// The size of the Jobs, in any case; see `kubectl features templates list`
    #[arg(long, value_name = "NAME")]
    pub cluster_template: Option<String>,
    /// Says why
    #[arg(long, value_name = "TEXT")]
    pub comment: Option<String>,
    /// Reads this instead of the source of that name, for this backfill only: NAME=[FORMAT:]URI, where FORMAT is parquet, csv, json,
    /// delta or feature-set; may be given several times
    #[arg(long = "source", value_name = "NAME=URI")]
    pub sources: Vec<String>,
    /// A file with the SELECT to use instead of the feature set's, for this backfill only; - for standard input
    #[arg(long, value_name = "FILE")]
    pub transform_file: Option<PathBuf>,
    /// Which stores are replaced: offline, online or both
    #[arg(long, value_enum, value_delimiter = ',', ignore_case = true, value_name = "STORE,...")]
    pub stores: Vec<StoreName>,
    /// Whether to publish: plan computes and checks only
    #[arg(long, value_enum, ignore_case = true, default_value_t = ModeName::Apply)]
    pub mode: ModeName,
    /// Tells runs of equal backfills apart
    #[arg(long, value_name = "ID")]
    pub run_id: Option<String>,
    /// The backfill's name. Default: the feature set's with the time and five random characters
    #[arg(long, value_name = "NAME", conflicts_with = "generate_name")]
    pub backfill_name: Option<String>,
    /// What the backfill's name begins with; five random characters follow
    #[arg(long, value_name = "PREFIX")]
    pub generate_name: Option<String>,
    /// Creates it held: `backfill resume` lets it go
    #[arg(long)]
    pub suspend: bool,
    /// How often a step is tried again after a failure that may pass
    #[arg(long, value_name = "TIMES")]
    pub retries: Option<u32>,
    /// How long the backfill may hold the feature set, such as 6h
    #[arg(long, value_name = "TIME")]
    pub deadline: Option<String>,
    /// Creates nothing: shows what would be created, judged here or by the API server
    #[arg(long, value_enum, value_name = "WHERE", num_args = 0..=1, require_equals = true, default_missing_value = "server")]
    pub dry_run: Option<DryRun>,
    /// Prints the manifest for git and creates nothing
    #[arg(long, conflicts_with_all = ["dry_run", "wait", "watch", "output"])]
    pub export: bool,
    /// Asks nothing
    #[arg(short, long)]
    pub yes: bool,
    #[command(flatten)]
    pub output: Output,
    #[command(flatten)]
    pub follow: Follow,
}

/// How long a command stays.
#[derive(Args, Clone, Debug)]
pub struct Follow {
    /// Waits for the end; the exit code tells it
    #[arg(long)]
    pub wait: bool,
    /// Shows progress until the end; the exit code tells it
    #[arg(short, long)]
    pub watch: bool,
    /// How long to wait, such as 30m
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub timeout: Option<Duration>,
    /// Prints the pods' logs until the end
    #[arg(long)]
    pub follow_logs: bool,
}

impl Follow {
    /// Whether the command stays until the backfill has ended.
    pub const fn stays(&self) -> bool {
        self.wait || self.watch || self.follow_logs
    }
}

/// How objects are printed.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct Output {
    /// How to print
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    pub output: Option<Format>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Yaml,
    Json,
    Name,
    Wide,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Structured {
    Yaml,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shape {
    Table,
    Json,
    Yaml,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DryRun {
    Client,
    Server,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StoreName {
    Offline,
    Online,
    Both,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ModeName {
    Apply,
    Plan,
}

impl ModeName {
    /// As a spec has it, in which the default stays absent.
    pub const fn spec(self) -> Option<Mode> {
        match self {
            Self::Apply => None,
            Self::Plan => Some(Mode::Plan),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StepName {
    Offline,
    Online,
    Settle,
}

impl From<StepName> for Step {
    fn from(name: StepName) -> Self {
        match name {
            StepName::Offline => Self::Offline,
            StepName::Online => Self::Online,
            StepName::Settle => Self::Settle,
        }
    }
}

/// One backfill.
#[derive(Args, Clone, Debug)]
pub struct One {
    /// The backfill's name; @latest for the newest
    pub name: String,
}

/// Some objects, or all.
#[derive(Args, Clone, Debug, Default)]
pub struct Everywhere {
    /// In all namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Only those with these labels
    #[arg(short = 'l', long, value_name = "LABELS")]
    pub selector: Option<String>,
    /// Only those with these fields, such as spec.featureSet=clicks
    #[arg(long, value_name = "FIELDS")]
    pub field_selector: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum Sets {
    /// Lists feature sets
    List {
        #[command(flatten)]
        selection: Everywhere,
        #[command(flatten)]
        output: Output,
    },
    /// Prints a feature set and the last replacements
    Get {
        /// Its name or view
        name: String,
        #[command(flatten)]
        output: Output,
    },
    /// Draws what was replaced when
    Coverage {
        /// Its name or view
        name: String,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Debug, Subcommand)]
pub enum Online {
    /// Shows what the online store serves of an entity now; exit code 5 when it has no row
    #[command(after_help = "\
A pod asks, inside the cluster, with the Secrets and volumes that run pods mount, and is deleted afterwards. So this needs the
rights to create, get and delete pods and to get pods/log. Nothing is written to the store.")]
    Get(OnlineGet),
}

/// Which entity, and how it is asked for.
#[derive(Args, Debug)]
pub struct OnlineGet {
    /// The feature set's name or view
    pub set: String,
    /// Each join key once, as KEY=VALUE. Bytes are hexadecimal digits, two for each; timestamps are written as all times are
    #[arg(required = true, value_name = "KEY=VALUE")]
    pub keys: Vec<String>,
    /// How to print
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t = Shape::Table)]
    pub output: Shape,
    /// The image of the worker. Default: the one with which the last backfill of the feature store ran
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<String>,
    /// How long to wait for the answer
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "2m")]
    pub timeout: Duration,
}

#[derive(Debug, Subcommand)]
pub enum Templates {
    /// Lists cluster templates and their numbers
    List {
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Debug, Subcommand)]
pub enum Export {
    /// Prints a Feast repository's definition of a feature set
    Feast {
        /// The feature set's name or view
        name: String,
    },
}

/// Accepts the times that resources accept, as they are.
fn time(flag: &'static str) -> impl Fn(&str) -> Result<String, String> + Clone {
    move |text| parse_time(flag, text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// Accepts a time such as `90s`, `10m`, `1h30m` or `2d`; a bare number counts seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let seconds = match text.parse() {
        Ok(seconds) => seconds,
        Err(_) => parse_duration("the time", text).map_err(|error| error.to_string())?,
    };
    Ok(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Features::command().debug_assert();
    }

    #[test]
    fn times_are_read_as_people_write_them() {
        for (text, seconds) in [("90s", 90), ("10m", 600), ("1h30m", 5400), ("2d", 172_800), ("45", 45), ("0", 0)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "h", "5x", "1.5h", "-1s", "1h30", "99999999999999999999s", "9999999999999999d"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}

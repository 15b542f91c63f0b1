//! Completion, in the protocol that kubectl speaks to its plugins: candidates line by line, then a directive.
//!
//! `kubectl_complete-features` calls `kubectl-features __complete WORDS…`; the last word is the one that is being typed.

use crate::args::{Connection, Features};
use crate::cluster::Cluster;
use crate::environment;
use crate::failure::{Exit, Result};
use crate::find::LATEST;
use backfill_core::api::{ClusterTemplate, FeatureSet, FeatureSetBackfill, FeatureStore};
use clap::{Arg, Command, CommandFactory, Parser};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::ListParams;
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::time::Duration;

/// Shells must not complete file names (Cobra's `ShellCompDirectiveNoFileComp`).
const NO_FILES: &str = ":4";

/// Shells complete file names (Cobra's `ShellCompDirectiveDefault`).
const FILES: &str = ":0";

/// Nobody waits longer for a completion.
const PATIENCE: Duration = Duration::from_secs(3);

/// What may stand at the place of the last word.
enum Wanted {
    Words(Vec<String>),
    FeatureSets,
    Backfills,
    Templates,
    Environments,
    Files,
}

/// `__complete`, which is not a command line itself: its words are somebody's unfinished one.
pub async fn complete(words: &[String]) -> Result<Exit> {
    let (typed, before) = words.split_last().map_or(("", &[][..]), |(typed, before)| (typed.as_str(), before));
    let Some(connection) = given(before) else { return Ok(Exit::Ok) };
    let command = Features::command();
    let wanted = wanted(&command, before, typed);
    let (prefix, typed) = match typed.split_once('=') {
        Some((flag, value)) if flag.starts_with("--") => (format!("{flag}="), value),
        _ => (String::new(), typed),
    };
    let names = tokio::time::timeout(PATIENCE, names(&connection, &wanted)).await;
    // A shell must not be disturbed by errors.
    for name in names.ok().and_then(Result::ok).unwrap_or_default() {
        if name.to_lowercase().starts_with(&typed.to_lowercase()) {
            println!("{prefix}{name}");
        }
    }
    println!("{}", if matches!(wanted, Wanted::Files) { FILES } else { NO_FILES });
    Ok(Exit::Ok)
}

/// The cluster's flags among the words before.
fn given(before: &[String]) -> Option<Connection> {
    let mut words = vec!["features".to_owned()];
    let mut rest = before.iter();
    while let Some(word) = rest.next() {
        let flag = word.split('=').next().unwrap_or_default();
        let ours =
            ["--environment", "-n", "--namespace", "--kubeconfig", "--context", "--cluster", "--user", "--as"].contains(&flag);
        if ours {
            words.push(word.clone());
            if !word.contains('=') {
                words.push(rest.next()?.clone());
            }
        }
    }
    words.extend(["version".to_owned(), "--client".to_owned()]);
    Features::try_parse_from(words).ok().map(|features| features.connection)
}

fn wanted(root: &Command, before: &[String], typed: &str) -> Wanted {
    let mut command = root;
    let mut path = Vec::new();
    let mut positionals = 0;
    let mut words = before.iter();
    let mut pending: Option<&Arg> = None;
    while let Some(word) = words.next() {
        pending = None;
        if let Some(flag) = flag(root, command, word) {
            if takes_value(flag) && !word.contains('=') && words.next().is_none() {
                pending = Some(flag);
            }
        } else if let Some(sub) = command.find_subcommand(word) {
            command = sub;
            path.push(sub.get_name());
        } else if !word.starts_with('-') {
            positionals += 1;
        }
    }
    let typed_flag = typed.split_once('=').and_then(|(name, _)| flag(root, command, name));
    if let Some(flag) = pending.or(typed_flag) {
        return of_flag(flag);
    }
    if typed.starts_with('-') {
        return Wanted::Words(flags(root, command));
    }
    let subcommands: Vec<String> =
        command.get_subcommands().filter(|sub| !sub.is_hide_set()).map(|sub| sub.get_name().to_owned()).collect();
    match (path.first(), path.last(), positionals) {
        _ if !subcommands.is_empty() => Wanted::Words(subcommands),
        (Some(&"backfill"), Some(&"delete"), _) | (Some(&"backfill"), _, 0) => Wanted::Backfills,
        (Some(&"sets"), Some(&("get" | "coverage")), 0) | (Some(&("export" | "online")), _, 0) => Wanted::FeatureSets,
        (Some(&"completion"), _, 0) => Wanted::Words(["bash", "elvish", "fish", "powershell", "zsh"].map(str::to_owned).to_vec()),
        _ => Wanted::Words(Vec::new()),
    }
}

fn flag<'a>(root: &'a Command, command: &'a Command, word: &str) -> Option<&'a Arg> {
    let name = word.split('=').next().unwrap_or_default();
    let is = |arg: &&Arg| match (name.strip_prefix("--"), name.strip_prefix('-')) {
        (Some(long), _) => arg.get_long_and_visible_aliases().is_some_and(|names| names.contains(&long)),
        (None, Some(short)) => arg.get_short().is_some_and(|c| short == c.to_string()),
        (None, None) => false,
    };
    command.get_arguments().find(is).or_else(|| root.get_arguments().find(is))
}

fn takes_value(arg: &Arg) -> bool {
    arg.get_action().takes_values() && arg.get_num_args().is_none_or(|count| count.min_values() > 0)
}

fn of_flag(arg: &Arg) -> Wanted {
    let values: Vec<String> = arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
    match arg.get_long() {
        Some("feature-set") => Wanted::FeatureSets,
        Some("execution-id") => Wanted::Backfills,
        Some("cluster-template") => Wanted::Templates,
        Some("environment" | "namespace") => Wanted::Environments,
        Some("kubeconfig" | "transform-file") => Wanted::Files,
        _ => Wanted::Words(values),
    }
}

fn flags(root: &Command, command: &Command) -> Vec<String> {
    let all = command.get_arguments().chain(root.get_arguments().filter(|arg| arg.is_global_set()));
    let names: BTreeSet<String> = all.filter_map(Arg::get_long).map(|long| format!("--{long}")).collect();
    names.into_iter().collect()
}

async fn names(connection: &Connection, wanted: &Wanted) -> Result<Vec<String>> {
    // What the words alone tell asks no cluster.
    Ok(match wanted {
        Wanted::Words(words) => words.clone(),
        Wanted::Files => Vec::new(),
        Wanted::Templates => {
            let cluster = Cluster::connect(connection).await?;
            of(&cluster, Api::<ClusterTemplate>::all(cluster.client.clone())).await?
        }
        Wanted::FeatureSets => {
            let (cluster, namespace) = environment::enter(connection).await?;
            of(&cluster, cluster.api::<FeatureSet>(&namespace)).await?
        }
        Wanted::Backfills => {
            let (cluster, namespace) = environment::enter(connection).await?;
            let mut names = of(&cluster, cluster.api::<FeatureSetBackfill>(&namespace)).await?;
            names.push(LATEST.to_owned());
            names
        }
        Wanted::Environments => environments(connection).await?,
    })
}

/// The namespaces with a store; all, when the user may not look everywhere.
async fn environments(connection: &Connection) -> Result<Vec<String>> {
    let cluster = Cluster::connect(connection).await?;
    let stores: Api<FeatureStore> = Api::all(cluster.client.clone());
    match cluster.call("list", stores.list_metadata(&ListParams::default())).await {
        Ok(found) => {
            let names: BTreeSet<String> = found.items.iter().filter_map(ResourceExt::namespace).collect();
            Ok(names.into_iter().collect())
        }
        Err(_) => of(&cluster, Api::<Namespace>::all(cluster.client.clone())).await,
    }
}

async fn of<K>(cluster: &Cluster, api: Api<K>) -> Result<Vec<String>>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let found = cluster.call("list", api.list_metadata(&ListParams::default())).await?;
    Ok(found.items.iter().map(ResourceExt::name_any).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(line: &str) -> String {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let (typed, before) = words.split_last().expect("a word");
        match wanted(&Features::command(), before, typed) {
            Wanted::Words(words) => words.join(" "),
            Wanted::FeatureSets => "<sets>".to_owned(),
            Wanted::Backfills => "<backfills>".to_owned(),
            Wanted::Templates => "<templates>".to_owned(),
            Wanted::Environments => "<environments>".to_owned(),
            Wanted::Files => "<files>".to_owned(),
        }
    }

    #[test]
    fn each_place_wants_its_own() {
        for (line, expected) in [
            ("backfill --feature-set ", "<sets>"),
            ("backfill --name ", "<sets>"),
            ("backfill --cluster-template=", "<templates>"),
            ("backfill --reset-backfill --environment ", "<environments>"),
            ("-n ", "<environments>"),
            ("backfill --transform-file ", "<files>"),
            ("backfill --mode ", "apply plan"),
            ("backfill watch ", "<backfills>"),
            ("backfill watch first ", ""),
            ("backfill delete first ", "<backfills>"),
            ("--context prod backfill watch ", "<backfills>"),
            ("execution-status --execution-id ", "<backfills>"),
            ("sets ", "list get coverage"),
            ("sets coverage ", "<sets>"),
            ("online ", "get"),
            ("online get ", "<sets>"),
            ("online get clicks ", ""),
            ("online get clicks user_id=7 -o ", "table json yaml"),
        ] {
            assert_eq!(kind(line), expected, "{line}");
        }
        assert!(kind("").starts_with("backfill execution-status sets online"), "{}", kind(""));
        assert!(kind("backfill --st").contains("--start-time --stop-time"), "{}", kind("backfill --st"));
    }
}

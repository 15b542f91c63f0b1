//! Creates backfills: from flags to a resource, once.

use crate::args::{Connection, Create, DryRun, Follow, Output, StoreName};
use crate::ask::confirm;
use crate::cluster::Cluster;
use crate::failure::{Exit, Failure, Result, rejected};
use crate::preview::{self, Known};
use crate::{environment, find, follow, print};
use backfill_core::api::{
    FeatureSet, FeatureSetBackfill, FeatureSetBackfillSpec, FeatureSetSource, FileSource, Mode, Source, Store, Transformation,
};
use backfill_core::condition::Reason;
use backfill_core::plan::instant;
use backfill_core::request::{Rejection, Resolution, check_uri};
use chrono::{DateTime, Utc};
use kube::ResourceExt;
use kube::api::PostParams;
use std::io::Read;
use std::time::Duration;

/// How often a request is sent that gets no answer. All have the same name: at most one backfill comes of them.
const TRIES: u32 = 4;

/// The longest name.
pub const NAME_MAX: usize = 63;

/// Under this name the API server keeps who wrote a field.
pub const FIELD_MANAGER: &str = "kubectl-features";

/// What is done with a manifest, besides creating it.
pub struct Manner<'a> {
    /// Creates nothing.
    pub dry_run: Option<DryRun>,
    /// Asks nothing.
    pub yes: bool,
    /// How the result is printed.
    pub output: Output,
    /// How long to stay.
    pub follow: &'a Follow,
}

/// `kubectl features backfill --feature-set …`.
pub async fn create(connection: &Connection, asked: &Create) -> Result<Exit> {
    refuse_nothing_to_do(asked)?;
    let (cluster, namespace) = environment::enter(connection).await?;
    let known = Known::of(&cluster, &namespace).await?;
    let name = asked.feature_set.as_deref().unwrap_or_default();
    known.refuse_no_environment()?;
    let set = find::feature_set(&known.feature_sets, name, &namespace)?;
    let spec = spec(asked, set)?;
    let name = backfill_name(asked, &set.name_any(), Utc::now());
    let backfill = manifest(&namespace, &name, spec);
    if asked.export {
        resolve(&known, &backfill, Utc::now())?;
        print!("{}", print::manifest(&backfill)?);
        return Ok(Exit::Ok);
    }
    let manner = Manner { dry_run: asked.dry_run, yes: asked.yes, output: asked.output, follow: &asked.follow };
    submit(&cluster, &known, backfill, &manner).await
}

/// Shows what a manifest means, asks, creates it, and stays as long as is wanted.
pub async fn submit(cluster: &Cluster, known: &Known, backfill: FeatureSetBackfill, manner: &Manner<'_>) -> Result<Exit> {
    let namespace = known.namespace.as_str();
    if manner.dry_run == Some(DryRun::Client) {
        let resolution = resolve(known, &backfill, Utc::now())?;
        eprint!("{}", preview::text(&resolution, cluster.context.as_deref()));
        print::created(&backfill, "created (client dry run)", manner.output)?;
        return Ok(Exit::Ok);
    }
    // What is wrong at any time is said here, with the way out.
    if let Err(rejection) = known.resolve(&backfill, Utc::now())
        && rejection.reason != Reason::StartInFuture
    {
        return Err(refused(rejection));
    }
    // The API server judges the manifest by its schema and our rights, and says what time it is.
    let (stored, _) = post(cluster, namespace, &backfill, true).await?;
    let now = stored.metadata.creation_timestamp.as_ref().map_or_else(Utc::now, instant);
    let resolution = resolve(known, &backfill, now)?;
    eprint!("{}", preview::text(&resolution, cluster.context.as_deref()));
    if manner.dry_run.is_some() {
        eprintln!("For the numbers of rows and entities: --mode plan --wait");
        print::created(&stored, "created (server dry run)", manner.output)?;
        return Ok(Exit::Ok);
    }
    if resolution.request.mode == Mode::Apply {
        confirm("Replace these data?", manner.yes)?;
    }
    let (created, word) = post(cluster, namespace, &backfill, false).await?;
    print::created(&created, word, manner.output)?;
    let name = created.name_any();
    if manner.follow.stays() {
        return follow::stay(cluster, &created, manner.follow).await;
    }
    let place = format!("{name} -n {namespace}");
    eprintln!("Triggered backfill of feature set \"{}\", execution id {name}.", created.spec.feature_set);
    eprintln!("To see how it stands:   kubectl features execution-status --execution-id {place}");
    eprintln!("To follow it:           kubectl features backfill watch {place}");
    Ok(Exit::Ok)
}

fn refuse_nothing_to_do(asked: &Create) -> Result<()> {
    if asked.reset || asked.start_time.is_some() || asked.stop_time.is_some() {
        return Ok(());
    }
    Err(Failure::usage("nothing says what is to be replaced")
        .hint("give --start-time and/or --stop-time for an interval, or --reset-backfill for all data"))
}

/// The spec that the flags ask for. What is not given stays absent: defaults are the operator's.
fn spec(asked: &Create, set: &FeatureSet) -> Result<FeatureSetBackfillSpec> {
    let sources: Vec<Source> = asked.sources.iter().map(|text| source(text, set)).collect::<Result<_>>()?;
    let transformation = asked.transform_file.as_ref().map(|path| {
        let mut sql = String::new();
        let read = match path.as_os_str() == "-" {
            true => std::io::stdin().read_to_string(&mut sql).map(drop),
            false => std::fs::read_to_string(path).map(|text| sql = text),
        };
        read.map_err(|error| Failure::usage(format!("--transform-file: cannot read {}: {error}", path.display())))?;
        Ok(Transformation { sql: sql.trim().to_owned() })
    });
    Ok(FeatureSetBackfillSpec {
        feature_set: set.name_any(),
        reset: asked.reset.then_some(true),
        start_time: asked.start_time.clone(),
        stop_time: asked.stop_time.clone(),
        cluster_template: asked.cluster_template.clone(),
        comment: asked.comment.clone(),
        sources: (!sources.is_empty()).then_some(sources),
        transformation: transformation.transpose()?,
        stores: stores(&asked.stores),
        mode: asked.mode.spec(),
        retries: asked.retries,
        deadline: asked.deadline.clone(),
        suspend: asked.suspend.then_some(true),
        run_id: asked.run_id.clone(),
        ..FeatureSetBackfillSpec::default()
    })
}

fn stores(names: &[StoreName]) -> Option<Vec<Store>> {
    let has = |name| names.contains(&name);
    match (has(StoreName::Offline), has(StoreName::Online)) {
        _ if has(StoreName::Both) => None,
        (true, false) => Some(vec![Store::Offline]),
        (false, true) => Some(vec![Store::Online]),
        (true, true) | (false, false) => None,
    }
}

/// `NAME=[FORMAT:]URI`. Without a format it is that of the feature set's source of this name, else what the file's ending says.
fn source(text: &str, set: &FeatureSet) -> Result<Source> {
    let refuse = |why: &str| Failure::usage(format!("--source \"{text}\" {why}")).hint("write NAME=URI or NAME=parquet:URI");
    let (name, rest) = text.split_once('=').ok_or_else(|| refuse("has no ="))?;
    let formats = ["parquet", "csv", "json", "delta", "feature-set"];
    let given = rest.split_once(':').filter(|(format, _)| formats.iter().any(|known| known.eq_ignore_ascii_case(format)));
    let (format, place) = match given {
        Some((format, place)) => (format.to_ascii_lowercase(), place),
        None => (guess(name, rest, set).ok_or_else(|| refuse("does not say which format it has"))?.to_owned(), rest),
    };
    let mut source = Source { name: name.to_owned(), parquet: None, csv: None, json: None, delta: None, feature_set: None };
    if format == "feature-set" {
        source.feature_set = Some(FeatureSetSource { name: place.to_owned() });
        return Ok(source);
    }
    check_uri(place).map_err(|why| Failure::usage(format!("--source {name}: {why}")))?;
    let files = Some(FileSource { uri: place.to_owned() });
    match format.as_str() {
        "parquet" => source.parquet = files,
        "csv" => source.csv = files,
        "json" => source.json = files,
        _ => source.delta = files,
    }
    Ok(source)
}

fn guess(name: &str, uri: &str, set: &FeatureSet) -> Option<&'static str> {
    let known = set.spec.sources.iter().find(|source| source.name == name);
    let of_set = known.and_then(|source| match () {
        () if source.parquet.is_some() => Some("parquet"),
        () if source.csv.is_some() => Some("csv"),
        () if source.json.is_some() => Some("json"),
        () if source.delta.is_some() => Some("delta"),
        () => None,
    });
    let ending = |ends: &[&str]| ends.iter().any(|end| uri.to_ascii_lowercase().ends_with(end));
    of_set.or_else(|| match () {
        () if ending(&[".parquet"]) => Some("parquet"),
        () if ending(&[".csv"]) => Some("csv"),
        () if ending(&[".json", ".jsonl", ".ndjson"]) => Some("json"),
        () => None,
    })
}

/// The name is chosen once: however often the request is sent, it is for one backfill.
fn backfill_name(asked: &Create, set: &str, now: DateTime<Utc>) -> String {
    match (&asked.backfill_name, &asked.generate_name) {
        (Some(name), _) => name.clone(),
        (None, Some(prefix)) => name_with(prefix.trim_end_matches('-'), ""),
        (None, None) => name_with(set, &now.format("-%Y%m%dt%H%M%S").to_string()),
    }
}

/// `<what><when>-<five random>`, cut to the length of a name.
pub fn name_with(what: &str, when: &str) -> String {
    let cut = NAME_MAX - when.len() - 6;
    let what = what.get(..cut).unwrap_or(what).trim_end_matches('-');
    format!("{what}{when}-{}", random())
}

/// Five random characters of a DNS label.
fn random() -> String {
    uuid::Uuid::new_v4().simple().to_string().split_off(27)
}

/// A resource as it is sent.
pub fn manifest(namespace: &str, name: &str, spec: FeatureSetBackfillSpec) -> FeatureSetBackfill {
    let mut backfill = FeatureSetBackfill::new(name, spec);
    backfill.metadata.namespace = Some(namespace.to_owned());
    backfill
}

/// What a manifest means, or why it is refused.
fn resolve(known: &Known, backfill: &FeatureSetBackfill, now: DateTime<Utc>) -> Result<Resolution> {
    known.resolve(backfill, now).map_err(refused)
}

/// A rejection in the words of the command line.
fn refused(Rejection { reason, message }: Rejection) -> Failure {
    let flags = [
        ("spec.startTime", "--start-time"),
        ("spec.stopTime", "--stop-time"),
        ("startTime must", "--start-time must"),
        ("before stopTime", "before --stop-time"),
        ("spec.clusterTemplate", "--cluster-template"),
        ("spec.comment", "--comment"),
        ("spec.stores", "--stores"),
        ("spec.sources", "--source"),
        ("spec.transformation.sql", "--transform-file"),
        ("spec.deadline", "--deadline"),
        ("spec.runId", "--run-id"),
    ];
    let message = flags.iter().fold(message, |message, (field, flag)| message.replace(field, flag));
    rejected(Rejection { reason, message })
}

/// Sends the manifest until there is an answer. That it exists already is good when it is the same. Returns what became of it.
async fn post(
    cluster: &Cluster,
    namespace: &str,
    backfill: &FeatureSetBackfill,
    dry_run: bool,
) -> Result<(FeatureSetBackfill, &'static str)> {
    let api = cluster.api::<FeatureSetBackfill>(namespace);
    let params = PostParams { dry_run, field_manager: Some(FIELD_MANAGER.to_owned()) };
    let name = backfill.name_any();
    let mut attempt = 1;
    loop {
        let error = match cluster.try_call(api.create(&params, backfill)).await {
            Ok(created) => return Ok((created, "created")),
            Err(error) => error,
        };
        let code = if let kube::Error::Api(status) = &error { Some(status.code) } else { None };
        match code {
            Some(409) => {
                // Without an answer to the first request, it was ours that created it.
                let word = if attempt > 1 { "created" } else { "unchanged" };
                let found = cluster.find("get the backfill", api.get(&name)).await?;
                return found.filter(|found| found.spec == backfill.spec).map(|found| (found, word)).ok_or_else(|| {
                    Failure::new(format!("the backfill \"{name}\" exists already in \"{namespace}\" and asks for something else"))
                        .hint("choose another --backfill-name, or leave it out")
                });
            }
            None | Some(429 | 500..) if attempt < TRIES => {
                tokio::time::sleep(Duration::from_millis(200) * 2_u32.pow(attempt)).await;
                attempt += 1;
            }
            None | Some(_) => return Err(cluster.explain(&format!("create the backfill \"{name}\""), &error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_label_however_long_the_set_is() {
        let long = "a".repeat(63);
        for set in ["clicks", long.as_str()] {
            let name = name_with(set, "-20240601t120000");
            assert!(name.len() <= 63 && name.starts_with(&set[..6]), "{name}");
            let random = name.rsplit_once('-').expect("a dash").1;
            assert!(random.len() == 5 && random.bytes().all(|b| b.is_ascii_alphanumeric()), "{name}");
        }
    }

    #[test]
    fn a_rejection_names_flags() {
        let message = "spec.startTime is not given and the feature set \"clicks\" has no backfill.startTime; give one of them";
        let failure = refused(Rejection { reason: Reason::StartTimeUnknown, message: message.to_owned() });
        assert_eq!(failure.exit, Exit::Usage);
        assert_eq!(
            failure.to_string(),
            "error: StartTimeUnknown: --start-time is not given and the feature set \"clicks\" has no backfill.startTime\n\
             hint: give one of them"
        );
    }
}

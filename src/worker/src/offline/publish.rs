//! The one commit that swaps new rows in, and the look at what others committed before every try.

use crate::context::Context;
use crate::delta::{self, DataFile, FENCE, Tried};
use crate::failpoint;
use crate::failure::{Failure, Result};
use crate::offline::pin::{Manifest, Pin};
use crate::offline::preflight;
use crate::offline::rescue::{self, Rescued, Which};
use crate::offline::scope::{Deletes, Overlap};
use crate::offline::shape::Shape;
use crate::offline::stage::Target;
use crate::storage::unreachable_store;
use backfill_core::api::SchemaGuard;
use backfill_core::condition::Reason;
use backfill_core::contract::Order;
use chrono::Utc;
use deltalake::datafusion::prelude::SessionContext;
use deltalake::kernel::{Action, Add, Metadata, Version};
use deltalake::{DeltaTable, ObjectStoreError};
use object_store::ObjectStoreExt;
use serde_json::json;
use std::collections::{HashMap, HashSet};

/// How often a commit is tried before the table counts as contended.
const TRIES: usize = 50;

/// How a try to publish ended.
#[derive(Debug)]
pub enum Publish {
    /// This version is the run's commit, made now or by an earlier attempt.
    Done(Version),
    /// Others replaced rows of the interval since the pin: stage again.
    Contended(String),
    /// The table moved since the plan: only appends and compaction leave a plan as it is.
    PlanMoved(String),
}

/// What this attempt brings to the commit.
pub struct Attempt<'a> {
    /// The surroundings.
    pub cx: &'a Context,
    /// The order, with what is pinned.
    pub order: &'a Order,
    /// The pin.
    pub pin: &'a Pin,
    /// The fence that this attempt raised; `None` when there was no table.
    pub fence: Option<i64>,
    /// Reads files that have to be rescued again.
    pub session: &'a SessionContext,
    /// Where rescued rows go.
    pub target: &'a Target<'a>,
}

/// Commits the staged files, exactly once however often it is tried.
pub async fn publish(attempt: &Attempt<'_>, manifest: &mut Manifest, table: Option<&mut DeltaTable>) -> Result<Publish> {
    let Some(table) = table else { return first_load(attempt, manifest).await };
    let app = delta::publish_app(&attempt.order.key);
    let mut unclear = 0;
    for _ in 0..TRIES {
        delta::refresh(table).await?;
        if delta::transaction(table, &app).await?.is_some() {
            return Ok(Publish::Done(find(table, &app, attempt.pin.version.unwrap_or(0)).await?));
        }
        let fence = delta::transaction(table, FENCE).await?;
        if fence != attempt.fence {
            return Err(superseded(fence));
        }
        let since = classify(attempt.order, attempt.pin, attempt.target.shape, table).await?;
        if let Since::Moved(why) = &since.verdict {
            return Ok(moved(manifest, why));
        }
        if attempt.order.guards.schema == SchemaGuard::Replace && !since.appended.is_empty() {
            return Ok(moved(manifest, "rows landed in the columns that the reset replaces"));
        }
        let actions = actions(attempt, manifest, table, &since).await?;
        if let Some(why) = missing(attempt, &actions).await? {
            return Ok(moved(manifest, &why));
        }
        failpoint::reach("before-publish");
        let tried = delta::commit(table, delta::version(table) + 1, &actions).await;
        failpoint::reach("after-publish");
        match tried {
            Tried::Committed => {
                let version = delta::version(table) + 1;
                delta::refresh(table).await?;
                return Ok(Publish::Done(version));
            }
            Tried::Taken => {}
            // An error does not mean that the commit did not happen: the next round looks the transaction up first.
            Tried::Unclear(error) => {
                unclear += 1;
                tracing::warn!(%error, "the fate of the commit is unclear; looking again");
                if unclear > 5 {
                    return Err(Failure::passing(Reason::OfflineUnavailable, format!("cannot commit to the table: {error}")));
                }
            }
        }
    }
    Err(Failure::passing(Reason::TableContended, format!("{TRIES} commits of others came first; the table is very busy")))
}

/// What was staged cannot be published as it is.
fn moved(manifest: &Manifest, why: &str) -> Publish {
    match manifest.planned {
        true => Publish::PlanMoved(why.to_owned()),
        false => Publish::Contended(why.to_owned()),
    }
}

/// The failure of an attempt that holds the table no more.
pub fn superseded(fence: Option<i64>) -> Failure {
    Failure::permanent(
        Reason::Superseded,
        format!("another attempt or backfill holds the table now (fence {}); this one wrote nothing", fence.unwrap_or(0)),
    )
}

/// Version 0 of a table that does not exist yet. Whoever creates it first has it.
async fn first_load(attempt: &Attempt<'_>, manifest: &Manifest) -> Result<Publish> {
    let order = attempt.order;
    let mut actions = creation(order, attempt.target.shape)?;
    actions.extend(manifest.adds.iter().cloned().map(Action::Add));
    actions.push(delta::txn(FENCE, 1));
    actions.push(delta::txn(&delta::publish_app(&order.key), 1));
    let details = json!({ "key": order.key, "backfill": order.backfill, "deletes": attempt.pin.deletes });
    actions.insert(0, delta::commit_info("BACKFILL", order.comment.as_deref(), details));
    if let Some(why) = missing(attempt, &actions).await? {
        return Ok(moved(manifest, &why));
    }
    failpoint::reach("before-publish");
    let table = delta::unloaded(attempt.target.location)?;
    let tried = delta::commit(&table, 0, &actions).await;
    failpoint::reach("after-publish");
    if matches!(tried, Tried::Committed) {
        return Ok(Publish::Done(0));
    }
    // Ours after all, or somebody else's table.
    let Some(table) = delta::open(attempt.target.location).await? else {
        return Err(Failure::passing(Reason::OfflineUnavailable, format!("cannot create the table: {tried:?}")));
    };
    let app = delta::publish_app(&order.key);
    if delta::transaction(&table, &app).await?.is_some() {
        return Ok(Publish::Done(find(&table, &app, 0).await?));
    }
    // A table that came with a fence was made by a backfill, or by settling this one: either has overtaken this attempt.
    match delta::transaction(&table, FENCE).await? {
        None => Ok(moved(manifest, "the table was created by others")),
        fence => Err(superseded(fence)),
    }
}

/// The protocol and metadata of a new table.
pub fn creation(order: &Order, shape: &Shape) -> Result<Vec<Action>> {
    let metadata = metadata(order, shape)?;
    // Plain tables: every reader and writer of Delta understands them.
    let protocol = serde_json::from_value(json!({ "minReaderVersion": 1, "minWriterVersion": 2 })).expect("this is a protocol");
    Ok(vec![Action::Protocol(protocol), Action::Metadata(metadata)])
}

/// The metadata of a new table.
pub fn metadata(order: &Order, shape: &Shape) -> Result<Metadata> {
    let schema = preflight::kernel_schema(&shape.table_schema())?;
    let metadata = deltalake::kernel::new_metadata(&schema, shape.partition_columns(), shape.properties(&order.definition));
    metadata.map_err(|error| Failure::permanent(Reason::InvalidFeatureSet, format!("cannot describe the table: {error}")))
}

/// The version whose commit carries a transaction, at or after `from`.
pub async fn find(table: &DeltaTable, app: &str, from: Version) -> Result<Version> {
    for version in from..=delta::version(table) {
        let actions = delta::commit_at(table, version).await?.unwrap_or_default();
        if actions.iter().any(|action| matches!(action, Action::Txn(txn) if txn.app_id == app)) {
            return Ok(version);
        }
    }
    Err(Failure::permanent(
        Reason::SnapshotExpired,
        format!(
            "the commit of transaction {app} is not in the table's log any more; it has happened, at or after version {from}"
        ),
    ))
}

/// What others committed since the pin.
struct Others {
    verdict: Since,
    /// Files that landed after the pin with new rows.
    appended: HashMap<String, Add>,
}

enum Since {
    Quiet,
    Moved(String),
}

/// Why what was staged for a pin would not be published on top of `table`; `None` when only appends and compaction came since.
pub async fn moved_since(order: &Order, pin: &Pin, shape: &Shape, table: &DeltaTable) -> Result<Option<String>> {
    match classify(order, pin, shape, table).await?.verdict {
        Since::Quiet => Ok(None),
        Since::Moved(why) => Ok(Some(why)),
    }
}

/// Looks at every commit after the pinned version.
async fn classify(order: &Order, pin: &Pin, shape: &Shape, table: &DeltaTable) -> Result<Others> {
    let from = pin.version.map_or(0, |version| version + 1);
    let mut others = Others { verdict: Since::Quiet, appended: HashMap::new() };
    let pinned = match pin.version {
        Some(version) if delta::version(table) > version => Some(delta::at(table, version).await?),
        _ => None,
    };
    let time = &order.definition.timestamp_column;
    let known: HashMap<String, DataFile> =
        pinned.iter().flat_map(|table| delta::files(table, time)).map(|file| (file.add.path.clone(), file)).collect();
    for version in from..=delta::version(table) {
        let Some(actions) = delta::commit_at(table, version).await? else {
            others.verdict = Since::Moved(format!("the log entry of version {version} is gone"));
            return Ok(others);
        };
        if let Some(why) = replaced(pin, &actions, &known, &others, time) {
            others.verdict = Since::Moved(format!("version {version} {why}"));
            return Ok(others);
        }
        for action in actions {
            match action {
                Action::Add(add) if add.data_change => {
                    others.appended.insert(add.path.clone(), add);
                }
                Action::Metadata(_) | Action::Protocol(_) => {
                    // Still fit to be replaced, and still of the shape for which the files were staged?
                    preflight::check(order, table, shape).map_err(changed)?;
                    if Shape::of_table(order, table).map_err(changed)?.layout != shape.layout {
                        return Err(changed(Failure::permanent(Reason::TableChanged, "its partitioning is another")));
                    }
                }
                Action::Add(_)
                | Action::Remove(_)
                | Action::Txn(_)
                | Action::CommitInfo(_)
                | Action::Cdc(_)
                | Action::DomainMetadata(_) => {}
            }
        }
    }
    Ok(others)
}

fn changed(failure: Failure) -> Failure {
    Failure::permanent(Reason::TableChanged, format!("the table changed during the backfill: {}", failure.message))
}

/// Whether a commit replaced rows that this run has looked at.
fn replaced(pin: &Pin, actions: &[Action], known: &HashMap<String, DataFile>, others: &Others, time: &str) -> Option<String> {
    let ours = delta::publish_app(&pin.order.key);
    let mut backfill = None;
    for action in actions {
        if let Action::Txn(txn) = action
            && txn.app_id.starts_with("fsb/")
            && txn.app_id != ours
        {
            backfill = Some(scope_of(actions).unwrap_or(Deletes::All));
        }
    }
    if let Some(theirs) = backfill {
        return theirs.overlaps(pin.deletes).then(|| "is another backfill of an overlapping interval".to_owned());
    }
    for action in actions {
        let Action::Remove(remove) = action else { continue };
        if !remove.data_change {
            continue;
        }
        let file = known.get(&remove.path).cloned();
        let file = file.or_else(|| others.appended.get(&remove.path).map(|add| DataFile::new(add.clone(), time)));
        let overlap = file.map_or(Overlap::Straddles, |file| pin.deletes.overlap(file.time));
        if overlap != Overlap::Outside {
            return Some(format!("removed rows of the interval (file {})", remove.path));
        }
    }
    None
}

/// What another backfill's commit says it replaced.
pub fn scope_of(actions: &[Action]) -> Option<Deletes> {
    actions.iter().find_map(|action| match action {
        Action::CommitInfo(info) => serde_json::from_value(info.info.get("featureset")?.get("deletes")?.clone()).ok(),
        _ => None,
    })
}

/// The files of a version that hold replaced rows: those that the pin saw, and those into which compaction moved them.
pub fn affected(files: Vec<DataFile>, deletes: Deletes, appended: impl Fn(&str) -> bool) -> Vec<(DataFile, Overlap)> {
    let files = files.into_iter().filter(|file| !appended(&file.add.path));
    files
        .map(|file| (deletes.overlap(file.time), file))
        .filter(|(overlap, _)| *overlap != Overlap::Outside)
        .map(|(o, f)| (f, o))
        .collect()
}

/// The actions of the commit on top of the table's newest version.
async fn actions(attempt: &Attempt<'_>, manifest: &mut Manifest, table: &DeltaTable, others: &Others) -> Result<Vec<Action>> {
    let (order, pin) = (attempt.order, attempt.pin);
    let time = &order.definition.timestamp_column;
    let live = delta::files(table, time);
    let paths: HashSet<String> = live.iter().map(|file| file.add.path.clone()).collect();
    let gone = affected(live, pin.deletes, |path| others.appended.contains_key(path));
    let mut rescued = Vec::new();
    for (file, overlap) in &gone {
        if *overlap == Overlap::Straddles {
            rescued.push(rescue(attempt, manifest, table, file, pin.deletes, Which::Outside).await?);
        }
    }
    // A file that compaction wrote may also hold rows that landed after the pin: those are taken from where they landed.
    for add in others.appended.values().filter(|add| !paths.contains(&add.path)) {
        let file = DataFile::new(add.clone(), time);
        if pin.deletes.overlap(file.time) != Overlap::Outside {
            rescued.push(landed_and_compacted(attempt, manifest, table, &file).await?);
        }
    }
    let now = Utc::now();
    let details = json!({
        "key": order.key,
        "backfill": order.backfill,
        "deletes": pin.deletes,
        "definition": order.definition.hash,
        "pinned": pin.version,
        "staged": manifest.adds.len(),
    });
    let mut actions = vec![delta::commit_info("BACKFILL", order.comment.as_deref(), details)];
    if let Some(metadata) = preflight::check(order, table, attempt.target.shape)?.metadata {
        actions.push(Action::Metadata(metadata));
    }
    actions.extend(gone.iter().map(|(file, _)| Action::Remove(file.remove(now))));
    actions.extend(manifest.adds.iter().cloned().map(Action::Add));
    actions.extend(rescued.iter().flat_map(|rescued| rescued.adds.iter().cloned().map(Action::Add)));
    actions.push(delta::txn(FENCE, attempt.fence.unwrap_or(1)));
    actions.push(delta::txn(&delta::publish_app(&order.key), 1));
    manifest.rescued = rescued;
    Ok(actions)
}

/// The rows of a file that stay; rescued before, or now when compaction moved them meanwhile.
async fn rescue(
    attempt: &Attempt<'_>,
    manifest: &Manifest,
    table: &DeltaTable,
    file: &DataFile,
    deletes: Deletes,
    which: Which,
) -> Result<Rescued> {
    if let Some(known) = manifest.rescued.iter().find(|rescued| rescued.file == file.add.path) {
        return Ok(known.clone());
    }
    let target = attempt.target.with_prefix(format!("{}-r{}", attempt.target.prefix, uuid::Uuid::new_v4().simple()));
    rescue::copy(attempt.session, table, file, deletes, which, &target).await
}

/// Rows that landed inside the interval after the pin and were compacted away since: they are in a file that goes, so they are
/// taken from the file in which they landed.
async fn landed_and_compacted(
    attempt: &Attempt<'_>,
    manifest: &Manifest,
    table: &DeltaTable,
    file: &DataFile,
) -> Result<Rescued> {
    let version = landed_in(attempt, table, &file.add.path).await?;
    let then = delta::at(table, version).await?;
    rescue(attempt, manifest, &then, file, attempt.pin.deletes, Which::Inside).await
}

async fn landed_in(attempt: &Attempt<'_>, table: &DeltaTable, path: &str) -> Result<Version> {
    let from = attempt.pin.version.map_or(0, |version| version + 1);
    for version in from..=delta::version(table) {
        let actions = delta::commit_at(table, version).await?.unwrap_or_default();
        if actions.iter().any(|action| matches!(action, Action::Add(add) if add.path == path)) {
            return Ok(version);
        }
    }
    Err(Failure::passing(Reason::TableContended, format!("file {path} vanished from the log")))
}

/// Right before the commit, every staged file must still be there: VACUUM deletes what no version names.
async fn missing(attempt: &Attempt<'_>, actions: &[Action]) -> Result<Option<String>> {
    for action in actions {
        let Action::Add(add) = action else { continue };
        let path = object_store::path::Path::from(add.path.as_str());
        match attempt.target.store.head(&path).await {
            Ok(_) => {}
            Err(ObjectStoreError::NotFound { .. }) => return Ok(Some(format!("the staged file {} is gone", add.path))),
            Err(error) => return Err(unreachable_store(&error)),
        }
    }
    Ok(None)
}

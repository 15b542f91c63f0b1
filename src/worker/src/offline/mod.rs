//! The offline step: fence → pin → stage → validate → publish by one commit → prove.
//!
//! Every attempt of a run may die between any two lines. The next one finds the run's transaction, or the pin and the staged
//! files, and goes on from there; one that is overtaken finds a higher fence and writes nothing.

pub mod conform;
pub mod dedupe;
pub mod guards;
pub mod hash;
mod ordered;
pub mod pin;
pub mod plan;
pub mod preflight;
pub mod proof;
pub mod publish;
pub mod rescue;
pub mod scope;
pub mod settle;
pub mod shape;
pub mod sources;
pub mod spark;
pub mod stage;
mod staging;
pub mod undo;
pub mod writer;

use crate::context::Context;
use crate::delta::{self, FENCE};
use crate::failpoint;
use crate::failure::{Failure, Result};
use crate::online;
use crate::record::RunRecord;
use crate::report::report;
use crate::session;
use crate::storage::{self, Location, unreachable_store};
use backfill_core::api::Mode;
use backfill_core::condition::Reason;
use backfill_core::contract::{Notice, OfflineReport, Order, Outcome, Report, Scope, Verdict};
use backfill_core::time::show;
use chrono::{SubsecRound, Utc};
use deltalake::datafusion::execution::runtime_env::RuntimeEnv;
use deltalake::kernel::Version;
use deltalake::{DeltaTable, ObjectStoreError};
use object_store::{ObjectStore, ObjectStoreExt};
use pin::{MANIFEST, Manifest, PIN, PUBLISHED, Pin, Published};
use publish::{Attempt, Publish};
use shape::Shape;
use stage::Target;
use staging::Staging;
use std::sync::Arc;

/// How often a run pins anew because others replaced rows of its interval meanwhile.
const PINS_MAX: usize = 3;

/// Staged files older than this are staged again: VACUUM may delete unnamed files after 7 days.
const STAGED_MILLIS_MAX: i64 = 84 * 3_600_000;

/// Checkpoints of the log are written when the version is a multiple of this, unless the table says otherwise.
const CHECKPOINT_INTERVAL: u64 = 10;

/// Fulfils the offline part of an order, or finds that an attempt before did.
///
/// Guards that fail are an `Ok` report with the outcome `Failed`; an `Err` is everything else that went wrong.
pub async fn run(cx: &Context, attempt: &Order) -> Result<Report> {
    let location = storage::locate(cx, &attempt.table.uri, attempt.table.credentials_secret.as_deref())?;
    let store = delta::unloaded(&location)?.object_store();
    let record = RunRecord::new(store.clone(), &attempt.key);
    let table = delta::open(&location).await?;
    let started = show(Utc::now().trunc_subsecs(3));
    let mut step = Step { cx, attempt, location, store, record, table, mode: attempt.mode, started };
    if let Some(report) = step.already_applied().await? {
        return Ok(report);
    }
    step.replace().await
}

/// Raises the fence: whoever held the table before can commit no more. Returns the height.
pub async fn raise_fence(table: &mut DeltaTable, order: &Order) -> Result<i64> {
    let details = serde_json::json!({ "key": order.key, "attempt": order.attempt });
    let raised = delta::commit_transaction(table, FENCE, details, |height| Some(height.unwrap_or(0) + 1)).await?;
    Ok(raised.expect("there is always a next height"))
}

/// What the names of all files begin with that attempts of a run stage.
pub fn staged_prefix(key: &str) -> String {
    format!("fsb-{}", &key[..16])
}

struct Step<'a> {
    cx: &'a Context,
    attempt: &'a Order,
    location: Location,
    store: Arc<dyn ObjectStore>,
    record: RunRecord,
    table: Option<DeltaTable>,
    /// The attempt's mode; `Plan` also when a plan that was to be published has to be made again.
    mode: Mode,
    started: String,
}

impl Step<'_> {
    /// The report of a run whose transaction the table already holds: of this very resource an earlier attempt did it, and this one
    /// only tells.
    async fn already_applied(&self) -> Result<Option<Report>> {
        let Some(table) = &self.table else { return Ok(None) };
        let app = delta::publish_app(&self.attempt.key);
        if delta::transaction(table, &app).await?.is_none() {
            return Ok(None);
        }
        let pin = self.record.get::<Pin>(PIN).await?;
        let published = match (self.record.get::<Published>(PUBLISHED).await?, &pin) {
            (Some(published), _) => published,
            // The attempt that committed died before it could tell.
            (None, Some(pin)) => {
                let version = publish::find(table, &app, pin.version.unwrap_or(0)).await?;
                self.tell(table, pin, None, version).await?
            }
            (None, None) => {
                let version = publish::find(table, &app, 0).await?;
                let report = OfflineReport { version_after: Some(version), ..OfflineReport::default() };
                Published { version, report, notices: vec![] }
            }
        };
        let changed = pin.as_ref().is_some_and(|pin| pin.order.definition.hash != self.attempt.definition.hash);
        let outcome = match pin.as_ref().is_some_and(|pin| pin.is_of(self.attempt)) {
            true => Outcome::Done,
            false => Outcome::AlreadyApplied { definition_changed: changed },
        };
        let scope = pin.map(|pin| pin.scope());
        let mut report = self.report(outcome, scope, Some(published.report));
        report.warnings = published.notices;
        Ok(Some(report))
    }

    async fn replace(&mut self) -> Result<Report> {
        storage::probe_put_if_absent(self.store.as_ref(), self.record.folder()).await?;
        let mut notices = self.online_preflight(0).await?;
        let mut fence = self.raise_fence().await?;
        failpoint::reach("fence-raised");
        let runtime = session::runtime(self.cx, &self.attempt.size)?;
        let mut pin = Pin::take(self.cx, self.attempt, &self.record, self.table.as_ref()).await?;
        let mut why = String::new();
        for _ in 0..PINS_MAX {
            // A table that came or went since the pin is another one.
            if pin.version.is_some() != self.table.is_some() {
                pin = Pin::renew(self.cx, &pin.order(self.attempt), &self.record, self.table.as_ref()).await?;
            }
            failpoint::reach("pinned");
            let order = match self.try_pin(&pin, fence, &runtime).await? {
                Tried::Reported(mut report) => {
                    report.warnings.extend(notices);
                    return Ok(*report);
                }
                Tried::Moved(moved) => {
                    why = moved;
                    pin.order(self.attempt)
                }
                // The plan is made again with the definition of now, and stays a plan.
                Tried::PlanMoved(moved) => {
                    let message = format!("the plan was made again: {moved}");
                    notices.push(Notice { reason: Reason::PlanMoved, message });
                    self.mode = Mode::Plan;
                    Order { mode: Mode::Plan, ..pin.order_anew(self.attempt) }
                }
            };
            failpoint::reach("moved");
            self.table = delta::open(&self.location).await?;
            fence = self.hold_fence(fence).await?;
            pin = Pin::renew(self.cx, &order, &self.record, self.table.as_ref()).await?;
        }
        Err(Failure::permanent(
            Reason::TableContended,
            format!(
                "others replaced rows of the interval {PINS_MAX} times while it was computed, last: {why}; nothing was changed"
            ),
        ))
    }

    async fn raise_fence(&mut self) -> Result<Option<i64>> {
        match &mut self.table {
            Some(table) => raise_fence(table, self.attempt).await.map(Some),
            None => Ok(None),
        }
    }

    /// Makes sure that nobody has taken the table over, before the run record is written again. A table that others created
    /// meanwhile can carry a fence now.
    async fn hold_fence(&mut self, ours: Option<i64>) -> Result<Option<i64>> {
        let Some(table) = &self.table else { return Ok(None) };
        match (ours, delta::transaction(table, FENCE).await?) {
            (None, None) => self.raise_fence().await,
            (ours, found) if ours == found => Ok(ours),
            (_, found) => Err(publish::superseded(found)),
        }
    }

    /// Checks the online store before anything offline is replaced. At most every new row is another entity.
    async fn online_preflight(&self, entities_max: u64) -> Result<Vec<Notice>> {
        match self.attempt.stores.online() {
            true => online::preflight(self.cx, self.attempt, entities_max).await,
            false => Ok(vec![]),
        }
    }

    /// Stages, or takes what is staged, for one pin; publishes it or reports the plan.
    async fn try_pin(&mut self, pin: &Pin, fence: Option<i64>, runtime: &Arc<RuntimeEnv>) -> Result<Tried> {
        let order = Order { mode: self.mode, ..pin.order(self.attempt) };
        let pinned = match (&self.table, pin.version) {
            (Some(table), Some(version)) => Some(delta::at(table, version).await?),
            _ => None,
        };
        let shape = match &pinned {
            Some(table) => Shape::of_table(&order, table)?,
            None => Shape::of_new_table(&order),
        };
        let mut notices = match &pinned {
            Some(table) => preflight::check(&order, table, &shape)?.notices,
            None => vec![],
        };
        let nonce = uuid::Uuid::new_v4().simple().to_string();
        let prefix = format!("{}-{}-{}", staged_prefix(&order.key), order.attempt, &nonce[..8]);
        let target = Target { location: &self.location, store: self.store.clone(), shape: &shape, prefix };
        let staging = Staging { cx: self.cx, order: &order, pin, pinned: pinned.as_ref(), runtime, target: &target };
        let mut manifest = match self.adopt(pin, &order, &shape).await? {
            Adopted::Manifest(manifest) => *manifest,
            Adopted::PlanMoved(why) => return Ok(Tried::PlanMoved(why)),
            Adopted::Nothing => match staging.stage().await? {
                Ok(manifest) => manifest,
                Err((failure, report)) => {
                    self.remove_staged(&report).await;
                    return Ok(Tried::reported(self.report(failure.outcome(), Some(pin.scope()), Some(report.report))));
                }
            },
        };
        // What was staged for publishing is a plan from now on: it is published only when nothing moves.
        manifest.planned |= order.mode == Mode::Plan;
        self.record.put(MANIFEST, &manifest).await?;
        failpoint::reach("staged");
        notices.extend(manifest.notices.iter().cloned());
        if order.mode == Mode::Plan {
            return self.planned(&staging, &manifest, notices).await.map(Tried::reported);
        }
        let session = session::session(runtime, 1);
        if let Some(table) = &self.table {
            delta::register_store(&session, table);
        }
        let attempt = Attempt { cx: self.cx, order: &order, pin, fence, session: &session, target: &target };
        // Offline without online is half a backfill: look once more before the point of no return.
        self.online_preflight(manifest.report.rows_written).await?;
        self.cx.stage("publishing", 1);
        match publish::publish(&attempt, &mut manifest, self.table.as_mut()).await? {
            Publish::Done(version) => {
                let table = delta::open(&self.location).await?.expect("it was just committed to");
                let published = self.tell(&table, pin, Some(manifest), version).await?;
                self.cx.advance(1, published.report.rows_written);
                notices.extend(self.maintain(&table).await);
                let outcome = match published.report.proof.as_ref().map(|proof| proof.verdict) {
                    Some(Verdict::Failed) => proof_failed(version).outcome(),
                    _ => Outcome::Done,
                };
                self.table = Some(table);
                let mut report = self.report(outcome, Some(pin.scope()), Some(published.report));
                report.warnings = notices;
                Ok(Tried::reported(report))
            }
            Publish::Contended(why) => Ok(Tried::Moved(why)),
            Publish::PlanMoved(why) => Ok(Tried::PlanMoved(why)),
        }
    }

    /// What an earlier attempt staged for this pin, when it can still be published.
    async fn adopt(&self, pin: &Pin, order: &Order, shape: &Shape) -> Result<Adopted> {
        let Some(manifest) = self.record.get::<Manifest>(MANIFEST).await? else { return Ok(Adopted::Nothing) };
        let stale = match manifest.pin == pin.id {
            true => self.stale(&manifest).await?,
            false => Some("the table moved".to_owned()),
        };
        if !manifest.planned || (order.mode == Mode::Plan && manifest.pin != pin.id) {
            return Ok(stale.map_or_else(|| Adopted::Manifest(Box::new(manifest)), |_| Adopted::Nothing));
        }
        let definition = (pin.order.definition.hash != self.attempt.definition.hash)
            .then(|| "the definition of the feature set changed".to_owned());
        if let Some(why) = definition.or(stale) {
            return Ok(Adopted::PlanMoved(why));
        }
        let secret = order.table.credentials_secret.as_deref();
        match sources::verify(self.cx, &order.definition.sources, &pin.sources, secret).await {
            Ok(()) => {}
            Err(failure) if failure.retry => return Err(failure),
            Err(failure) => return Ok(Adopted::PlanMoved(failure.message)),
        }
        let moved = match &self.table {
            Some(table) => publish::moved_since(order, pin, shape, table).await?,
            None => None,
        };
        Ok(moved.map_or_else(|| Adopted::Manifest(Box::new(manifest)), Adopted::PlanMoved))
    }

    /// Why staged files can be published no more.
    async fn stale(&self, manifest: &Manifest) -> Result<Option<String>> {
        if Utc::now().timestamp_millis() - manifest.at >= STAGED_MILLIS_MAX {
            return Ok(Some("the staged files are so old that VACUUM may delete them".to_owned()));
        }
        for add in manifest.adds.iter().chain(manifest.rescued.iter().flat_map(|rescued| &rescued.adds)) {
            match self.store.head(&object_store::path::Path::from(add.path.as_str())).await {
                Ok(_) => {}
                Err(ObjectStoreError::NotFound { .. }) => return Ok(Some(format!("the staged file {} is gone", add.path))),
                Err(error) => return Err(unreachable_store(&error)),
            }
        }
        Ok(None)
    }

    async fn planned(&self, staging: &Staging<'_>, manifest: &Manifest, notices: Vec<Notice>) -> Result<Report> {
        let session = session::session(staging.runtime, staging.order.size.cores as usize);
        let difference = plan::difference(&session, staging.pinned, staging.pin, manifest, staging.target).await?;
        let offline = OfflineReport { rows_unchanged: Some(difference.rows_unchanged), ..manifest.report.clone() };
        let mut report = self.report(Outcome::Planned, Some(staging.pin.scope()), Some(offline));
        report.online = staging.order.stores.online().then_some(difference.entities);
        report.warnings = notices;
        Ok(report)
    }

    /// Proves the commit and writes down what was published, from what staging found where that is still known.
    async fn tell(&self, table: &DeltaTable, pin: &Pin, manifest: Option<Manifest>, version: Version) -> Result<Published> {
        let session = session::session(&session::runtime(self.cx, &self.attempt.size)?, self.attempt.size.cores as usize);
        let time = &pin.order.definition.timestamp_column;
        let proved = proof::prove(&session, table, version, pin.deletes, time).await?;
        let manifest = match manifest {
            Some(manifest) => Some(manifest),
            None => self.record.get::<Manifest>(MANIFEST).await?,
        };
        let staged = manifest.as_ref().map(|manifest| manifest.report.clone()).unwrap_or_default();
        let report = OfflineReport {
            rows_removed: proved.rows_removed,
            rows_written: proved.rows_written,
            rows_rescued: proved.rows_rescued,
            rows_read: staged.rows_read + proved.rows_read,
            files_added: proved.files_added,
            files_removed: proved.files_removed,
            bytes_written: proved.bytes_written,
            version_before: version.checked_sub(1),
            version_after: Some(version),
            started_at: Some(self.started.clone()),
            finished_at: Some(show(Utc::now().trunc_subsecs(3))),
            proof: Some(proved.proof),
            ..staged
        };
        let notices = manifest.map(|manifest| manifest.notices).unwrap_or_default();
        let published = Published { version, report, notices };
        self.record.put(PUBLISHED, &published).await?;
        failpoint::reach("published");
        Ok(published)
    }

    /// Keeps the log short. A failure here has no effect on the data.
    async fn maintain(&self, table: &DeltaTable) -> Option<Notice> {
        let version = delta::version(table);
        let interval = delta::snapshot(table).table_properties().checkpoint_interval.map_or(CHECKPOINT_INTERVAL, u64::from);
        if version == 0 || !version.is_multiple_of(interval) {
            return None;
        }
        let error = deltalake::checkpoints::create_checkpoint(table, None).await.err()?;
        let message = format!("no checkpoint of the table's log at version {version}: {error}");
        Some(Notice { reason: Reason::TableMaintenance, message })
    }

    /// Staged files that will never be published; what cannot be removed now, settle or VACUUM removes.
    async fn remove_staged(&self, manifest: &Manifest) {
        for add in manifest.adds.iter().chain(manifest.rescued.iter().flat_map(|rescued| &rescued.adds)) {
            let path = object_store::path::Path::from(add.path.as_str());
            if let Err(error) = self.store.delete(&path).await {
                tracing::warn!(%error, %path, "cannot remove a staged file");
            }
        }
    }

    fn report(&self, outcome: Outcome, scope: Option<Scope>, offline: Option<OfflineReport>) -> Report {
        Report { scope, offline, ..report(self.attempt, outcome) }
    }
}

enum Tried {
    Reported(Box<Report>),
    Moved(String),
    PlanMoved(String),
}

impl Tried {
    fn reported(report: Report) -> Self {
        Self::Reported(Box::new(report))
    }
}

enum Adopted {
    Manifest(Box<Manifest>),
    PlanMoved(String),
    Nothing,
}

fn proof_failed(version: Version) -> Failure {
    Failure::permanent(
        Reason::ProofFailed,
        format!(
            "version {version} differs from its parent outside the boundaries; undo this backfill and report this as a defect"
        ),
    )
}

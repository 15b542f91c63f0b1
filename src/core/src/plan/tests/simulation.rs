//! Many backfills while everything goes wrong: writes fail or lose their reply, caches lag, pods crash, hang and vanish, users change
//! their minds. Whatever happens, what is said is true, and once faults stop, everything ends.

use super::cluster::{Aborted, Cluster, Fate, JOB_NAME, cluster, feature_set, labelled};
use super::{row, *};
use crate::contract::{OfflineReport, OnlineReport, Order, Outcome, Report, exit};
use crate::plan::manifest::ORDER;
use crate::plan::run::label;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
const SETS: [&str; 2] = ["clicks", "views"];

#[derive(Clone, Debug)]
enum Move {
    /// The operator looks at a backfill; the digits of the number, to the base 3, are the fates of its writes.
    Reconcile {
        who: usize,
        fates: Option<u8>,
        fresh: u8,
    },
    /// The Job controller looks at all Jobs.
    Jobs,
    /// A pod does what comes next.
    Pod {
        which: usize,
        luck: u8,
    },
    /// The kubelet ends a pod that was told to.
    End {
        which: usize,
    },
    /// A pod of a finished Job is removed before it was read.
    Vanish {
        which: usize,
    },
    Wait {
        seconds: i64,
    },
    User {
        who: usize,
        does: Whim,
    },
}

#[derive(Clone, Copy, Debug)]
enum Whim {
    Suspend,
    Resume,
    Cancel,
    Delete,
    RunAgain,
    Apply,
    CreateAgain,
    DeleteSet,
    CreateSet,
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let whim = prop_oneof![
        3 => Just(Whim::Suspend),
        4 => Just(Whim::Resume),
        3 => Just(Whim::Cancel),
        2 => Just(Whim::Delete),
        3 => Just(Whim::RunAgain),
        2 => Just(Whim::Apply),
        2 => Just(Whim::CreateAgain),
        1 => Just(Whim::DeleteSet),
        2 => Just(Whim::CreateSet),
    ];
    let fates = prop_oneof![4 => Just(None), 1 => any::<u8>().prop_map(Some)];
    let fresh = prop_oneof![3 => Just(u8::MAX), 1 => any::<u8>()];
    let seconds = prop_oneof![4 => 1..20_i64, 2 => 20..400_i64, 1 => 400..1_200_i64, 1 => Just(90_000_i64)];
    let one = prop_oneof![
        10 => (0..NAMES.len(), fates, fresh).prop_map(|(who, fates, fresh)| Move::Reconcile { who, fates, fresh }),
        5 => Just(Move::Jobs),
        8 => (any::<usize>(), any::<u8>()).prop_map(|(which, luck)| Move::Pod { which, luck }),
        2 => any::<usize>().prop_map(|which| Move::End { which }),
        1 => any::<usize>().prop_map(|which| Move::Vanish { which }),
        2 => seconds.prop_map(|seconds| Move::Wait { seconds }),
        2 => (0..NAMES.len(), whim).prop_map(|(who, does)| Move::User { who, does }),
    ];
    proptest::collection::vec(one, 1..160)
}

/// A replacement that is in the offline table.
#[derive(Clone, Debug)]
struct Published {
    version: u64,
    /// The run: its labels' uid and run.
    by: String,
    backfill: String,
    set: String,
    /// The uid of the feature set at that time.
    set_uid: Option<String>,
}

/// What lies in the stores, and who put it there.
#[derive(Clone, Debug, Default)]
struct Tables {
    version: u64,
    /// By key.
    published: BTreeMap<String, Published>,
    /// Keys with which the online store agrees, and who made it so.
    online: BTreeMap<String, BTreeSet<String>>,
    /// By feature set.
    fences: BTreeMap<String, u64>,
    /// The fence of each pod that has begun.
    begun: BTreeMap<String, u64>,
}

struct World {
    cluster: Cluster,
    /// What the caches hold.
    seen: Cluster,
    tables: Tables,
    /// How each run ended: by uid and `runId`.
    ended: BTreeMap<(String, Option<String>), Vec<condition::Condition>>,
}

fn world(slots: u32) -> World {
    let mut cluster = cluster();
    cluster.stores.get_mut("default").expect("the store").spec.max_concurrent_backfills = Some(slots);
    for name in NAMES {
        cluster.apply(name, spec_of(name));
        cluster.now += TimeDelta::seconds(1);
    }
    World { seen: cluster.clone(), cluster, tables: Tables::default(), ended: BTreeMap::new() }
}

/// Two of `clicks`, one of which is planned first; two of `views`, one for each store.
fn spec_of(name: &str) -> Value {
    let times = json!({"startTime": "2024-05-01", "ttlSecondsAfterFinished": 600, "deadline": "20h"});
    let more = match name {
        "a" => json!({"featureSet": "clicks", "reset": true}),
        "b" => json!({"featureSet": "clicks", "mode": "Plan"}),
        "c" => json!({"featureSet": "views", "stopTime": "2024-05-08"}),
        _ => json!({"featureSet": "views", "stores": ["Online"]}),
    };
    let both = times.as_object().into_iter().chain(more.as_object()).flatten();
    both.map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn run_of(pod: &Pod) -> String {
    format!("{}/{}", labelled(pod, label::UID), labelled(pod, label::RUN))
}

fn run_name(backfill: &FeatureSetBackfill) -> String {
    format!("{}/{}", backfill.metadata.uid.clone().unwrap_or_default(), Run::of(backfill).id())
}

fn report(order: &Order, outcome: Outcome) -> Report {
    Report {
        version: 1,
        key: order.key.clone(),
        outcome,
        comment: None,
        scope: Some(order.scope.clone()),
        offline: None,
        online: None,
        warnings: vec![],
    }
}

fn phase_of(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

impl World {
    fn make(&mut self, what: &Move) {
        match what {
            Move::Reconcile { who, fates, fresh } => self.reconcile(NAMES[*who], *fates, *fresh),
            Move::Jobs => self.job_controller(),
            Move::Pod { which, luck } => {
                if let Some(pod) = self.pick(*which, |pod| matches!(phase_of(pod), "Pending" | "Running")) {
                    self.pod_acts(&pod, *luck);
                }
            }
            Move::End { which } => {
                if let Some(pod) = self.pick(*which, |pod| pod.metadata.deletion_timestamp.is_some()) {
                    self.cluster.pods.remove(&pod);
                }
            }
            Move::Vanish { which } => {
                // The Job controller keeps a pod until it has counted it.
                let counted = |pod: &Pod| self.cluster.jobs.get(labelled(pod, JOB_NAME)).is_none_or(finished);
                if let Some(pod) = self.pick(*which, |pod| matches!(phase_of(pod), "Succeeded" | "Failed") && counted(pod)) {
                    self.cluster.pods.remove(&pod);
                }
            }
            Move::Wait { seconds } => self.cluster.now += TimeDelta::seconds(*seconds),
            Move::User { who, does } => self.user(NAMES[*who], *does),
        }
        self.check();
    }

    fn pick(&self, which: usize, fits: impl Fn(&Pod) -> bool) -> Option<String> {
        let fitting: Vec<_> = self.cluster.pods.iter().filter(|(_, pod)| fits(pod)).map(|(name, _)| name.clone()).collect();
        (!fitting.is_empty()).then(|| fitting[which % fitting.len()].clone())
    }

    /// Each bit of `fresh` brings one cache up to date.
    fn reconcile(&mut self, name: &str, fates: Option<u8>, fresh: u8) {
        let (seen, now) = (&mut self.seen, &self.cluster);
        seen.templates.clone_from(&now.templates);
        let up_to_date = |bit: u8| fresh & (1 << bit) != 0;
        if up_to_date(0) {
            seen.feature_sets.clone_from(&now.feature_sets);
        }
        if up_to_date(1) {
            seen.stores.clone_from(&now.stores);
        }
        if up_to_date(2) {
            seen.jobs.clone_from(&now.jobs);
        }
        if up_to_date(3) {
            seen.pods.clone_from(&now.pods);
        }
        if up_to_date(4) {
            seen.backfills.clone_from(&now.backfills);
        }
        if !now.backfills.contains_key(name) {
            return;
        }
        let plan = now.observe(name, seen).plan(now.now);
        let mut left = fates.map(u32::from);
        let mut fate = || match &mut left {
            None => Fate::Succeeds,
            Some(digits) => {
                let digit = *digits % 3;
                *digits /= 3;
                [Fate::Succeeds, Fate::ReplyLost, Fate::Fails][digit as usize]
            }
        };
        let _: Result<(), Aborted> = self.cluster.perform(name, &plan, &mut fate);
    }

    fn job_controller(&mut self) {
        let live: Vec<String> =
            self.cluster.jobs.iter().filter(|(_, job)| !finished(job)).map(|(name, _)| name.clone()).collect();
        for job in live {
            let pods: Vec<&Pod> = self.cluster.pods.values().filter(|pod| labelled(*pod, JOB_NAME) == job).collect();
            let failed = pods.iter().filter(|pod| phase_of(pod) == "Failed").count();
            let permanent = pods.iter().any(|pod| exit_code(pod).is_some_and(|code| code >= i64::from(exit::PERMANENT)));
            let limit = self.cluster.jobs[&job].spec.as_ref().and_then(|spec| spec.backoff_limit).unwrap_or(0);
            if pods.iter().any(|pod| phase_of(pod) == "Succeeded") {
                self.cluster.job_is(&job, "Complete");
            } else if permanent || i32::try_from(failed).unwrap_or(i32::MAX) > limit {
                self.cluster.job_is(&job, "Failed");
            } else if pods.iter().all(|pod| phase_of(pod) == "Failed") {
                self.cluster.add_pod(&job);
            }
        }
    }

    /// The next thing that a worker does: begin, write, report. `luck` may have it fail at any of them.
    fn pod_acts(&mut self, name: &str, luck: u8) {
        let pod = self.cluster.pods[name].clone();
        let Some(order) = self.order(&pod) else { return };
        if phase_of(&pod) == "Pending" {
            return match luck {
                0..16 => {
                    let waits = json!({"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}});
                    self.cluster.pod_is(name, "Pending", waits);
                }
                _ if pod.metadata.deletion_timestamp.is_some() => {}
                _ => self.cluster.pod_is(name, "Running", json!({"running": {}})),
            };
        }
        let failed = |reason, retry| report(&order, Outcome::Failed { reason, message: "no".to_owned(), retry });
        match luck {
            0..8 => self.cluster.pod_ends(name, 137, "OOMKilled", None),
            8..20 => self.cluster.pod_ends(name, 137, "Error", None),
            20..32 => self.cluster.pod_ends(name, 1, "Error", Some(&failed(Reason::OfflineUnavailable, true))),
            32..38 if !self.tables.begun.contains_key(name) => {
                self.cluster.pod_ends(name, 64, "Error", Some(&failed(Reason::ShrinkGuard, false)));
            }
            _ => self.works(name, &pod, &order, luck),
        }
    }

    fn works(&mut self, name: &str, pod: &Pod, order: &Order, luck: u8) {
        let set = labelled(pod, label::FEATURE_SET).to_owned();
        let fence = self.tables.fences.get(&set).copied().unwrap_or(0);
        let step = labelled(pod, label::STEP);
        let Some(mine) = self.tables.begun.get(name).copied() else {
            self.tables.begun.insert(name.to_owned(), fence + 1);
            self.tables.fences.insert(set, fence + 1);
            return;
        };
        let published = self.tables.published.get(&order.key).cloned();
        let superseded = mine != fence;
        let ends = |outcome| report(order, outcome);
        let done = match step {
            "settle" => {
                let ours = published.filter(|published| published.by == run_of(pod));
                let settled = ends(Outcome::Settled { published: ours.is_some() });
                Ok(Report { offline: ours.map(|published| offline_report(published.version)), ..settled })
            }
            _ if superseded => Err(()),
            "offline" => Ok(self.publishes(pod, order, luck)),
            _ => Ok(self.reconciles(pod, order)),
        };
        match done {
            Ok(report) => self.cluster.pod_ends(name, 0, "Completed", Some(&report)),
            Err(()) => {
                let outcome = Outcome::Failed { reason: Reason::Superseded, message: "superseded".to_owned(), retry: false };
                self.cluster.pod_ends(name, i32::from(exit::SUPERSEDED), "Error", Some(&ends(outcome)));
            }
        }
        // The process may die after its last write and before its report.
        if luck > 250 && step != "settle" {
            self.cluster.pod_ends(name, 137, "Error", None);
        }
    }

    fn publishes(&mut self, pod: &Pod, order: &Order, luck: u8) -> Report {
        if let Some(Published { version, by, .. }) = self.tables.published.get(&order.key).filter(|_| order.mode == Mode::Apply) {
            let outcome = match *by == run_of(pod) {
                true => Outcome::Done,
                false => Outcome::AlreadyApplied { definition_changed: false },
            };
            return Report { offline: Some(offline_report(*version)), ..report(order, outcome) };
        }
        // What was planned has moved, so that it is planned again.
        if order.mode == Mode::Plan || luck > 245 {
            return Report { offline: Some(OfflineReport::default()), ..report(order, Outcome::Planned) };
        }
        self.tables.version += 1;
        let set = labelled(pod, label::FEATURE_SET).to_owned();
        let set_uid = self.cluster.feature_sets.get(&set).and_then(|set| set.metadata.uid.clone());
        let backfill = labelled(pod, label::BACKFILL).to_owned();
        let published = Published { version: self.tables.version, by: run_of(pod), backfill, set, set_uid };
        self.tables.published.insert(order.key.clone(), published);
        Report { offline: Some(offline_report(self.tables.version)), ..report(order, Outcome::Done) }
    }

    fn reconciles(&mut self, pod: &Pod, order: &Order) -> Report {
        if order.mode == Mode::Plan {
            return report(order, Outcome::Planned);
        }
        let version = self.tables.published.get(&order.key).map(|published| published.version);
        assert!(version.is_some() || !order.stores.offline(), "the online step runs before anything is published");
        self.tables.online.entry(order.key.clone()).or_default().insert(run_of(pod));
        let online = OnlineReport { version: Some(version.unwrap_or(self.tables.version)), ..OnlineReport::default() };
        Report { online: Some(online), ..report(order, Outcome::Done) }
    }

    fn order(&self, pod: &Pod) -> Option<Order> {
        let map = self.cluster.config_maps.get(labelled(pod, JOB_NAME))?;
        Some(Order::read(&map.data.as_ref()?[ORDER]).expect("an order"))
    }

    fn user(&mut self, name: &str, does: Whim) {
        let cluster = &mut self.cluster;
        let set = if matches!(name, "a" | "b") { SETS[0] } else { SETS[1] };
        let Some(backfill) = cluster.backfills.get(name) else {
            if matches!(does, Whim::CreateAgain) {
                cluster.apply(name, spec_of(name));
            }
            return;
        };
        let conditions = backfill.status.as_ref().map_or(&[][..], |status| &status.conditions);
        let over = [ConditionType::Complete, ConditionType::Failed, ConditionType::Ready];
        let may_run_again = over.into_iter().any(|kind| is_true(conditions, kind));
        match does {
            Whim::Suspend => cluster.edit(name, |spec| spec.suspend = Some(true)),
            Whim::Resume => cluster.edit(name, |spec| spec.suspend = None),
            Whim::Cancel => cluster.edit(name, |spec| spec.cancel = Some(true)),
            Whim::Delete => cluster.delete_backfill(name),
            Whim::RunAgain if may_run_again => {
                let run_id = cluster.named("again");
                cluster.edit(name, |spec| (spec.run_id, spec.cancel) = (Some(run_id), None));
            }
            Whim::Apply => cluster.edit(name, |spec| spec.mode = Some(Mode::Apply)),
            Whim::DeleteSet => cluster.delete_feature_set(set),
            Whim::CreateSet => {
                let uid = cluster.named("set");
                let anew = || {
                    let mut set = feature_set(set);
                    set.metadata.uid = Some(uid);
                    set
                };
                cluster.feature_sets.entry(set.to_owned()).or_insert_with(anew);
            }
            Whim::RunAgain | Whim::CreateAgain => {}
        }
    }

    /// What holds at every moment.
    fn check(&mut self) {
        let cluster = &self.cluster;
        let live: Vec<&Job> = cluster.jobs.values().filter(|job| !finished(job)).collect();
        let step = |job: &Job| [label::UID, label::RUN, label::STEP].map(|key| labelled(job, key).to_owned());
        let steps: BTreeSet<_> = live.iter().map(|job| step(job)).collect();
        assert_eq!(steps.len(), live.len(), "two live Jobs of one step of one run");
        for set in SETS {
            let of_set = |found: &str| found == set;
            let jobs =
                live.iter().filter(|job| of_set(labelled(**job, label::FEATURE_SET))).map(|job| labelled(*job, label::UID));
            let pods = cluster.pods.values().filter(|pod| alive(pod, cluster.now));
            let pods = pods.filter(|pod| of_set(labelled(*pod, label::FEATURE_SET))).map(|pod| labelled(pod, label::UID));
            let owners: BTreeSet<_> = jobs.chain(pods).collect();
            assert!(owners.len() <= 1, "Jobs or pods of several backfills of {set} at once: {owners:?}");
        }
        for backfill in cluster.backfills.values() {
            let Some(status) = backfill.status.as_ref().filter(|status| !status.conditions.is_empty()) else { continue };
            if !matches!(row(status), "complete" | "failed") {
                continue;
            }
            let run = (backfill.metadata.uid.clone().unwrap_or_default(), status.run_id.clone());
            let of_status = FeatureSetBackfill {
                spec: crate::api::FeatureSetBackfillSpec { run_id: status.run_id.clone(), ..backfill.spec.clone() },
                ..backfill.clone()
            };
            self.tables.agrees(status, &run_name(&of_status));
            let before = self.ended.entry(run).or_insert_with(|| status.conditions.clone());
            let facts = |conditions: &[condition::Condition]| {
                conditions.iter().map(|found| (found.kind, found.status, found.reason)).collect::<Vec<_>>()
            };
            assert_eq!(facts(before), facts(&status.conditions), "the end of a run flips");
        }
    }

    /// Faults stop: caches are up to date, pods do their work, nobody interferes. Ends when nothing has changed for longer than
    /// anything is waited for.
    fn calm_down(&mut self) {
        let mut still = 0;
        for _ in 0..400 {
            let before = self.state();
            self.job_controller();
            let pods: Vec<String> = self.cluster.pods.keys().cloned().collect();
            for pod in pods {
                if self.cluster.pods[&pod].metadata.deletion_timestamp.is_some() {
                    self.cluster.pods.remove(&pod);
                } else if matches!(phase_of(&self.cluster.pods[&pod]), "Pending" | "Running") {
                    self.pod_acts(&pod, 100);
                }
            }
            for name in NAMES {
                self.reconcile(name, None, u8::MAX);
            }
            self.check();
            self.cluster.now += TimeDelta::seconds(60);
            still = if before == self.state() { still + 1 } else { 0 };
            if still > 20 {
                return;
            }
        }
        panic!(
            "it does not come to rest: {:#?}",
            self.cluster.backfills.values().map(|backfill| &backfill.status).collect::<Vec<_>>()
        );
    }

    fn state(&self) -> impl PartialEq + use<> {
        let Cluster { backfills, feature_sets, stores, jobs, pods, .. } = self.cluster.clone();
        (backfills, feature_sets, stores, jobs, pods, self.tables.begun.len())
    }

    /// What holds when everything stands still.
    fn check_rest(&mut self, suspended_may_be: bool) {
        let cluster = &self.cluster;
        let paused = cluster.backfills.values().any(|backfill| row(backfill.status.as_ref().expect("a status")) == "suspended");
        let mut holders = BTreeSet::new();
        for (name, backfill) in &cluster.backfills {
            let status = backfill.status.as_ref().expect("a status");
            let rows: &[&str] = match row(status) {
                "going" if suspended_may_be && paused && status.phase.as_deref() == Some("Queued") => &["going"],
                _ if suspended_may_be => &["suspended", "stalled", "planned", "complete", "failed"],
                _ => &["stalled", "planned", "complete", "failed"],
            };
            assert!(rows.contains(&row(status)), "{name} does not end: {status:#?}");
            assert!(backfill.metadata.deletion_timestamp.is_none(), "{name} is not let go: {status:#?}");
            let plan = cluster.plan(name);
            assert_eq!((&plan.status, &plan.effects), (status, &vec![]), "planning again changes {name}");
            if matches!(row(status), "suspended") && is_true(&status.conditions, ConditionType::OfflineReplaced) {
                holders.insert(backfill.metadata.uid.clone().unwrap_or_default());
            }
            let free = backfill.metadata.finalizers.iter().flatten().next().is_none();
            assert!(free || matches!(row(status), "suspended" | "stalled" | "going"), "{name} keeps its finalizer");
        }
        self.check_ledger();
        let slots: BTreeSet<_> = cluster.slots().into_iter().map(|slot| slot.uid).collect();
        assert_eq!(slots, holders, "slots that are held");
        for set in cluster.feature_sets.values() {
            let active = set.status.as_ref().and_then(|status| status.active.clone());
            assert!(active.as_ref().is_none_or(|active| holders.contains(&active.uid)), "{active:?} is left");
            let finalizers = set.metadata.finalizers.iter().flatten().count();
            assert_eq!(finalizers, usize::from(active.is_some()), "finalizers of {}", set.name_any());
        }
    }
}

impl World {
    /// The ledger tells of everything that was published, but by runs that were given up and by those that are held.
    fn check_ledger(&self) {
        let cluster = &self.cluster;
        for (key, published) in &self.tables.published {
            let Published { version, by, backfill, set, set_uid } = published;
            let abandoned = cluster.said.iter().any(|(name, said)| name == backfill && said.reason == Reason::Abandoned);
            let held = cluster.backfills.values().any(|backfill| {
                run_name(backfill) == *by && matches!(row(backfill.status.as_ref().expect("a status")), "suspended" | "going")
            });
            let Some(set) = cluster.feature_sets.get(set).filter(|set| set.metadata.uid == *set_uid) else { continue };
            let ledger = set.status.iter().flat_map(|status| &status.ledger);
            let entries: Vec<_> = ledger.filter(|entry| entry.version == *version && entry.key == *key).collect();
            assert!(
                abandoned || held || entries.len() == 1,
                "version {version} by {backfill} is {} times in the ledger",
                entries.len()
            );
        }
    }
}

fn exit_code(pod: &Pod) -> Option<i64> {
    let states = pod.status.as_ref()?.container_statuses.iter().flatten();
    let ended = states.filter_map(|container| container.state.as_ref()?.terminated.as_ref());
    ended.map(|state| i64::from(state.exit_code)).next()
}

fn offline_report(version: u64) -> OfflineReport {
    OfflineReport { rows_written: 3, version_after: Some(version), ..OfflineReport::default() }
}

impl Tables {
    /// What an ended run says of the stores is so.
    fn agrees(&self, status: &FeatureSetBackfillStatus, run: &str) {
        let Some(resolved) = &status.resolved else { return };
        let reason = status.conditions.iter().find(|condition| condition.kind == ConditionType::Ready).map(|ready| ready.reason);
        let applied = reason == Some(Reason::AlreadyApplied);
        if reason == Some(Reason::Abandoned) || applied {
            assert!(
                !applied || !resolved.stores.offline() || self.published.contains_key(&resolved.key),
                "applied, but not published"
            );
            return;
        }
        let says = |kind| is_true(&status.conditions, kind);
        let published = self.published.get(&resolved.key);
        if resolved.stores.offline() {
            let ours = published.is_some_and(|published| published.by == run);
            let said = says(ConditionType::OfflineReplaced);
            assert!(!ours || said, "{run} has published, and says that it has not: {status:#?}");
            assert!(!said || published.is_some(), "{run} has not published, and says that it has: {status:#?}");
        }
        if says(ConditionType::OnlineReplaced) {
            assert!(self.online.contains_key(&resolved.key), "{run} has not reconciled, and says that it has: {status:#?}");
        }
    }
}

/// How many sequences are tried: few in every build, more on demand.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(100)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_statuses_are_true_and_everything_ends(slots in 1..3_u32, moves in moves()) {
        let mut world = world(slots);
        for what in &moves {
            world.make(what);
        }
        world.calm_down();
        world.check_rest(true);
        let names: Vec<String> = world.cluster.backfills.keys().cloned().collect();
        for name in names {
            world.cluster.edit(&name, |spec| spec.suspend = None);
        }
        world.calm_down();
        world.check_rest(false);
    }
}

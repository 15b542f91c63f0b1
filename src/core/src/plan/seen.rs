//! How the Jobs and pods of a run stand, read from the objects that Kubernetes' own controllers keep.

use super::manifest::CONTAINER;
use super::run::{Run, label};
use crate::condition::Reason;
use crate::contract::{Notice, OnlineReport, Outcome, Report, Step};
use chrono::{DateTime, TimeDelta, Utc};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus, Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

/// How long a pod may take to end after it was told to. Then its node is taken for lost: the fence keeps it from writing.
const TERMINATING_MAX: TimeDelta = TimeDelta::minutes(5);

/// How long a pod may wait for a node before that is called trouble.
const UNSCHEDULABLE_AFTER: TimeDelta = TimeDelta::minutes(5);

/// How many pods of one Job may run out of memory before the step counts as failed.
const OOM_MAX: usize = 2;

/// How the newest attempt of a step stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Standing {
    /// There is no Job of it, and no pod.
    Absent,
    /// Its Job or pods are going away.
    Leaving,
    /// Its Job is at work.
    Active(Activity),
    /// Its Job is complete. Without a report the pod vanished before it was read.
    Succeeded(Option<Box<Report>>),
    /// Its Job failed, or is going to.
    Failed {
        /// In one word.
        reason: Reason,
        /// For a person.
        message: String,
    },
}

/// A Job at work.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// Whether a pod runs now.
    pub running: bool,
    /// Whether a pod may have begun to work: only what is known to keep pods from it says that none has.
    pub began: bool,
    /// What keeps it from going on.
    pub trouble: Option<Notice>,
}

/// Which Jobs and pods of a backfill are meant.
#[derive(Clone, Copy, Debug)]
enum Whose {
    /// Those of the run.
    ThisRun,
    /// Those of the run but for one step.
    ThisRunWithout(Step),
    /// Those of the same backfill's other runs, or of the run in its other mode.
    OtherRuns,
    /// All of them.
    AllRuns,
}

/// Jobs and pods of a backfill.
#[derive(Clone, Copy, Debug)]
pub struct Children<'a> {
    run: Run<'a>,
    whose: Whose,
    jobs: &'a [Job],
    pods: &'a [Pod],
    now: DateTime<Utc>,
}

impl<'a> Children<'a> {
    /// Those of `run` among all Jobs and pods of its backfill.
    pub const fn of(run: Run<'a>, jobs: &'a [Job], pods: &'a [Pod], now: DateTime<Utc>) -> Self {
        Self { run, whose: Whose::ThisRun, jobs, pods, now }
    }

    /// Those of all runs of the backfill.
    pub const fn of_all_runs(&self) -> Self {
        Self { whose: Whose::AllRuns, ..*self }
    }

    /// Those of the backfill that are not of this run.
    pub const fn of_other_runs(&self) -> Self {
        Self { whose: Whose::OtherRuns, ..*self }
    }

    /// Those of this run but for one step.
    pub const fn without(&self, step: Step) -> Self {
        Self { whose: Whose::ThisRunWithout(step), ..*self }
    }

    fn owns(&self, metadata: &ObjectMeta) -> bool {
        let ours = self.run.owns(metadata.labels.as_ref());
        match self.whose {
            Whose::ThisRun => ours,
            Whose::ThisRunWithout(step) => ours && !is_of(metadata, step),
            Whose::OtherRuns => !ours,
            Whose::AllRuns => true,
        }
    }

    /// How the newest attempt of a step stands; `expected` is the attempt that was ordered last. `trouble` is what events say of Jobs
    /// and pods that cannot start.
    pub fn standing(&self, step: Step, expected: u32, trouble: Option<&Notice>) -> Standing {
        let job = self.jobs_of(step).rfind(|job| number(&job.metadata) == expected);
        let Some(job) = job else {
            return if self.alive(step).next().is_some() { Standing::Leaving } else { Standing::Absent };
        };
        if job.metadata.deletion_timestamp.is_some() {
            return Standing::Leaving;
        }
        let pods: Vec<&Pod> = self.pods_of(step).filter(|pod| number(&pod.metadata) == expected).collect();
        if has_condition(job, "Complete") {
            return Standing::Succeeded(report_of(&pods).map(Box::new));
        }
        if has_condition(job, "Failed") || has_condition(job, "FailureTarget") {
            return failed(job, &pods);
        }
        let killed = pods.iter().filter(|pod| oom_killed(pod)).count();
        if killed >= OOM_MAX {
            let message =
                format!("{killed} pods of Job {} ran out of memory; choose a larger clusterTemplate", name(&job.metadata));
            return Standing::Failed { reason: Reason::OOMKilled, message };
        }
        Standing::Active(self.activity(job, &pods, trouble))
    }

    fn activity(&self, job: &Job, pods: &[&Pod], trouble: Option<&Notice>) -> Activity {
        // Between the end of the last pod and that of its Job nothing starts again.
        let ended = !pods.is_empty() && pods.iter().all(|pod| phase(pod) == "Succeeded");
        let running = ended || pods.iter().any(|pod| phase(pod) == "Running" && pod.metadata.deletion_timestamp.is_none());
        let failed = job.status.as_ref().and_then(|status| status.failed).unwrap_or(0);
        let waits = pods.iter().filter_map(|pod| waiting(pod, self.now)).next();
        let hindered = waits.is_some() || trouble.is_some();
        let began = failed > 0 || pods.iter().any(|pod| has_begun(pod)) || !hindered;
        let last = || newest_failure(pods).map(|(_, message)| Notice { reason: Reason::Retrying, message });
        let trouble = match running {
            true => None,
            false => waits.or_else(|| trouble.cloned()).or_else(last),
        };
        Activity { running, began, trouble }
    }

    /// The Jobs of this run that are not finished and not being deleted.
    pub fn live_jobs(&self) -> impl Iterator<Item = &'a Job> {
        let children = *self;
        let live = |job: &&Job| !finished(job) && job.metadata.deletion_timestamp.is_none();
        self.jobs.iter().filter(move |job| children.owns(&job.metadata)).filter(live)
    }

    /// Whether anything of this run may still write: a Job that makes pods, or a pod that has not ended.
    pub fn may_write(&self) -> bool {
        let now = self.now;
        self.live_jobs().next().is_some() || self.pods.iter().any(|pod| self.owns(&pod.metadata) && alive(pod, now))
    }

    /// Whether a pod of a step is seen to have begun its work.
    pub fn has_begun(&self, step: Step) -> bool {
        self.pods_of(step).any(has_begun)
    }

    /// The pods of a step that have not ended. Those whose node is taken for lost do not count.
    fn alive(&self, step: Step) -> impl Iterator<Item = &'a Pod> {
        let now = self.now;
        self.pods_of(step).filter(move |pod| alive(pod, now))
    }

    fn jobs_of(&self, step: Step) -> impl DoubleEndedIterator<Item = &'a Job> {
        let children = *self;
        self.jobs.iter().filter(move |job| children.owns(&job.metadata) && is_of(&job.metadata, step))
    }

    fn pods_of(&self, step: Step) -> impl Iterator<Item = &'a Pod> {
        let children = *self;
        self.pods.iter().filter(move |pod| children.owns(&pod.metadata) && is_of(&pod.metadata, step))
    }

    /// The highest attempt of a step that has a Job.
    pub fn attempts(&self, step: Step) -> u32 {
        self.jobs_of(step).map(|job| number(&job.metadata)).max().unwrap_or(0)
    }
}

/// Whether a pod may still write. One that was told to end long ago is taken for lost.
pub fn alive(pod: &Pod, now: DateTime<Utc>) -> bool {
    let told = pod.metadata.deletion_timestamp.as_ref().map(instant);
    // The deletion time already includes the grace period.
    let lost = told.is_some_and(|told| now - told > TERMINATING_MAX);
    !lost && !matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether a pod may have worked. A kubelet calls a pod that is deleted before its containers were made failed, too; of those that
/// were made something remains: an id, a start, or a last state.
fn has_begun(pod: &Pod) -> bool {
    let containers = || pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let was_made = |container: &ContainerStatus| {
        let ended = container.state.as_ref().and_then(|state| state.terminated.as_ref());
        let before = container.last_state.as_ref().is_some_and(|state| state.terminated.is_some());
        container.container_id.is_some() || before || ended.is_none_or(|ended| ended.started_at.is_some())
    };
    match phase(pod) {
        "Running" | "Succeeded" => true,
        "Failed" => containers().next().is_none() || containers().any(was_made),
        _ => false,
    }
}

/// Whether a Job makes no pods any more.
pub fn finished(job: &Job) -> bool {
    has_condition(job, "Complete") || has_condition(job, "Failed")
}

/// An instant of Kubernetes as one of ours.
pub fn instant(time: &Time) -> DateTime<Utc> {
    let t = time.0;
    DateTime::from_timestamp(t.as_second(), t.subsec_nanosecond().unsigned_abs()).unwrap_or_default()
}

fn has_condition(job: &Job, kind: &str) -> bool {
    let conditions = job.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|conditions| conditions.iter().any(|condition| condition.type_ == kind && condition.status == "True"))
}

fn failed(job: &Job, pods: &[&Pod]) -> Standing {
    if let Some((reason, message)) = newest_failure(pods) {
        return Standing::Failed { reason, message };
    }
    let conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let why = conditions.filter(|condition| matches!(condition.type_.as_str(), "Failed" | "FailureTarget"));
    let why = why.filter_map(|condition| condition.message.clone()).next().unwrap_or_default();
    Standing::Failed { reason: Reason::PodFailed, message: format!("Job {} failed: {why}", name(&job.metadata)) }
}

/// Why the pod that failed last failed: its own words, or how its container ended. Of several pods that work together, the first
/// speaks for all.
fn newest_failure(pods: &[&Pod]) -> Option<(Reason, String)> {
    let ended = pods.iter().filter(|pod| phase(pod) == "Failed").filter_map(|pod| Some((terminated(pod)?, *pod)));
    let leads = |pod: &Pod| is_of(&pod.metadata, Step::Offline) && labelled(&pod.metadata, label::INDEX) == Some("0");
    let (state, pod) = ended.max_by_key(|(state, pod)| (leads(pod), state.finished_at.as_ref().map(instant)))?;
    if let Some(Report { outcome: Outcome::Failed { reason, message, .. }, .. }) = report(state) {
        return Some((reason, message));
    }
    let pod_name = name(&pod.metadata);
    Some(match oom_killed(pod) {
        true => (Reason::OOMKilled, format!("pod {pod_name} ran out of memory; choose a larger clusterTemplate")),
        false => {
            let why = state.reason.as_deref().unwrap_or("Error");
            (
                Reason::PodFailed,
                format!("pod {pod_name} ended with exit code {} ({why}) and no report; see its log", state.exit_code),
            )
        }
    })
}

/// The report of a complete Job. Of several pods that share the online step, the one that finished it speaks for all.
fn report_of(pods: &[&Pod]) -> Option<Report> {
    let mut reports: Vec<Report> =
        pods.iter().filter(|pod| phase(pod) == "Succeeded").filter_map(|pod| report(terminated(pod)?)).collect();
    let finisher = reports.iter().position(|report| !is_share(report))?;
    Some(reports.swap_remove(finisher))
}

fn is_share(report: &Report) -> bool {
    report.outcome == Outcome::Done && matches!(&report.online, Some(OnlineReport { version: None, .. }))
}

fn report(state: &ContainerStateTerminated) -> Option<Report> {
    serde_json::from_str(state.message.as_deref()?).ok()
}

/// Why a pod does not start, once it has not for long enough.
fn waiting(pod: &Pod, now: DateTime<Utc>) -> Option<Notice> {
    let status = pod.status.as_ref()?;
    stuck(pod, status).or_else(|| {
        let (since, notice) = unplaced(pod, status)?;
        (now - since? >= UNSCHEDULABLE_AFTER).then_some(notice)
    })
}

/// Why a pod does not start, as soon as it says so itself.
pub fn hindrance(pod: &Pod) -> Option<Notice> {
    let status = pod.status.as_ref()?;
    stuck(pod, status).or_else(|| unplaced(pod, status).map(|(_, notice)| notice))
}

/// What keeps a container from being started on the node that was found.
fn stuck(pod: &Pod, status: &PodStatus) -> Option<Notice> {
    for state in container_states(status) {
        let Some(wait) = &state.waiting else { continue };
        let why = wait.reason.as_deref().unwrap_or_default();
        let reason = match why {
            "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => Reason::ImagePull,
            "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => Reason::PodTrouble,
            _ => continue,
        };
        let message = format!("pod {}: {why}: {}", name(&pod.metadata), wait.message.as_deref().unwrap_or("no details"));
        return Some(Notice { reason, message });
    }
    None
}

/// That no node was found, and since when.
fn unplaced(pod: &Pod, status: &PodStatus) -> Option<(Option<DateTime<Utc>>, Notice)> {
    let condition =
        status.conditions.iter().flatten().find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")?;
    let why = condition.message.as_deref().unwrap_or("no node has room for it");
    let notice = Notice { reason: Reason::Unschedulable, message: format!("pod {}: {why}", name(&pod.metadata)) };
    let since = condition.last_transition_time.as_ref().map(instant);
    (condition.reason.as_deref() == Some("Unschedulable")).then_some((since, notice))
}

/// How a pod has ended, in words; `None` while its worker may still run. Containers that others have put beside it do not count.
pub fn ended(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let exit = terminated(pod)
        .map(|state| format!("it ended with exit code {} ({})", state.exit_code, state.reason.as_deref().unwrap_or("Error")));
    let over = matches!(phase(pod), "Succeeded" | "Failed").then(|| "it never ran".to_owned());
    let told = status.reason.iter().chain(&status.message).map(|word| format!(": {word}"));
    exit.or(over).map(|how| told.fold(how, |how, word| how + &word))
}

fn oom_killed(pod: &Pod) -> bool {
    terminated(pod).is_some_and(|state| state.reason.as_deref() == Some("OOMKilled"))
}

fn terminated(pod: &Pod) -> Option<&ContainerStateTerminated> {
    container_states(pod.status.as_ref()?).find_map(|state| state.terminated.as_ref())
}

fn container_states(status: &PodStatus) -> impl Iterator<Item = &ContainerState> {
    let ours = status.container_statuses.iter().flatten().filter(|container| container.name == CONTAINER);
    ours.filter_map(|container| container.state.as_ref())
}

/// A pod's phase; one without a status is pending.
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

fn is_of(metadata: &ObjectMeta, step: Step) -> bool {
    labelled(metadata, label::STEP) == Some(step.word())
}

fn number(metadata: &ObjectMeta) -> u32 {
    labelled(metadata, label::ATTEMPT).and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn labelled<'a>(metadata: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    metadata.labels.as_ref()?.get(key).map(String::as_str)
}

fn name(metadata: &ObjectMeta) -> &str {
    metadata.name.as_deref().unwrap_or_default()
}

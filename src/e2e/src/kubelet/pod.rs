//! One pod, from binding to its end.

use super::act::{Act, Ending, Play};
use super::report::{exit_code, index_of, order_of, report, step_of};
use super::status::{self, End};
use super::tables::Run;
use super::{NODE, Stage};
use anyhow::Result;
use backfill_core::contract::{Order, Outcome, REPORT_BYTES_MAX, Report, Step};
use chrono::{DateTime, Utc};
use k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod};
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// The code of a container that ends because it is told to (SIGTERM).
const TERMINATED: i32 = 143;

/// The distance of tries after the API server did not take a request.
const RETRY: Duration = Duration::from_millis(200);

/// Plays a pod until it is gone.
pub async fn play(stage: Arc<Stage>, mut pods: watch::Receiver<Arc<Pod>>) {
    let mut changes = stage.script.changes();
    let mut player = Player::new(stage, &pods.borrow());
    loop {
        let pod = pods.borrow_and_update().clone();
        let again = match player.proceed(&pod).await {
            Ok(again) => again,
            Err(error) => {
                if !is_overtaken(&error) {
                    eprintln!("the played kubelet cannot play {}: {error:#}", player.name);
                }
                Some(Instant::now() + RETRY)
            }
        };
        let timer = async {
            match again {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = pods.changed() => if changed.is_err() { break },
            () = changes.next() => {}
            () = timer => {}
        }
    }
    player.close();
}

/// Whether the pod is gone, another one has its name, or somebody else wrote at the same time.
fn is_overtaken(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(kube::Error::Api(status)) if status.code == 404 || status.code == 409)
}

struct Player {
    stage: Arc<Stage>,
    api: Api<Pod>,
    name: String,
    uid: Option<String>,
    bound: bool,
    /// What the API server was told last.
    shown: Option<Play>,
    started: Option<Started>,
    /// Decided once: what a container has done cannot be done again.
    end: Option<End>,
}

/// A container that has started.
struct Started {
    at: Instant,
    since: DateTime<Utc>,
    order: Option<Order>,
    /// The number of its run, when it has an order.
    run: Option<usize>,
}

impl Player {
    fn new(stage: Arc<Stage>, pod: &Pod) -> Self {
        let api = Api::namespaced(stage.client.clone(), &pod.namespace().unwrap_or_default());
        Self { api, name: pod.name_any(), uid: pod.uid(), bound: false, shown: None, started: None, end: None, stage }
    }

    /// Goes as far as the script says. Returns when to go on if nothing changes before.
    async fn proceed(&mut self, pod: &Pod) -> Result<Option<Instant>> {
        self.bound |= pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let ended = matches!(phase, Some("Succeeded" | "Failed"));
        let act = self.stage.script.act(pod);
        if pod.metadata.deletion_timestamp.is_some() {
            // An unbound pod is removed by the API server itself.
            if self.bound && (ended || !act.hangs) {
                self.terminate(pod, ended).await?;
            }
            return Ok(None);
        }
        if ended {
            self.close();
            return Ok(None);
        }
        self.perform(pod, act).await
    }

    async fn perform(&mut self, pod: &Pod, act: Act) -> Result<Option<Instant>> {
        let play = match act.play {
            // Further nodes of an engine only serve the first one.
            Play::Ends(Ending::Obeys) if step_of(pod) == Some(Step::Offline) && index_of(pod) > 0 => Play::Running,
            play => play,
        };
        match &play {
            Play::Unschedulable { message, ago } if !self.bound => {
                self.show(&play, status::unschedulable(message, Utc::now() - *ago)).await?;
            }
            Play::Unschedulable { .. } => {}
            Play::Waiting { reason, message } => {
                self.bind().await?;
                self.show(&play, status::waiting(pod, reason, message)).await?;
            }
            Play::Running => {
                let since = self.start(pod).await?.since;
                self.show(&play, status::running(pod, since)).await?;
            }
            Play::Ends(ending) => {
                let started = self.start(pod).await?;
                let (since, due) = (started.since, started.at + act.after);
                if self.end.is_none() && Instant::now() < due {
                    self.show(&Play::Running, status::running(pod, since)).await?;
                    return Ok(Some(due));
                }
                self.finish(pod, ending).await?;
            }
        }
        Ok(None)
    }

    async fn start(&mut self, pod: &Pod) -> Result<&Started> {
        self.bind().await?;
        let started = match self.started.take() {
            Some(started) => started,
            None => {
                let order = match step_of(pod) {
                    Some(_) => order_of(&self.stage.client, pod).await?,
                    None => None,
                };
                let run = order
                    .as_ref()
                    .zip(step_of(pod))
                    .map(|(order, step)| self.stage.tables.begin(Run::new(order, step, &self.name, index_of(pod))));
                Started { at: Instant::now(), since: Utc::now(), order, run }
            }
        };
        Ok(self.started.insert(started))
    }

    async fn finish(&mut self, pod: &Pod, ending: &Ending) -> Result<()> {
        if self.end.is_none() {
            self.end = Some(self.decide(ending));
        }
        self.write_end(pod).await
    }

    fn decide(&self, ending: &Ending) -> End {
        let started = self.started.as_ref();
        let obey = || {
            let (run, order) = started.and_then(|started| started.run.zip(started.order.as_ref()))?;
            Some(self.stage.tables.obey(run, order))
        };
        match ending {
            Ending::Obeys => obey().map_or_else(|| End::exit(0, String::new()), reported),
            Ending::ObeysAndDies => {
                obey();
                End::exit(137, String::new())
            }
            Ending::Fails { reason, message, retry } => {
                let outcome = Outcome::Failed { reason: *reason, message: message.clone(), retry: *retry };
                let code = exit_code(&outcome);
                match started.and_then(|started| started.order.as_ref()) {
                    Some(order) => reported(report(order, outcome)),
                    None => End::exit(code, message.clone()),
                }
            }
            Ending::Exits { code, message } => End::exit(*code, message.clone()),
            Ending::OutOfMemory => End::out_of_memory(),
            Ending::Evicted => End::evicted(),
        }
    }

    /// The pod was deleted: its container ends, and the deletion is confirmed.
    async fn terminate(&mut self, pod: &Pod, ended: bool) -> Result<()> {
        if !ended {
            let running = pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
            let end = match running || self.started.is_some() {
                true => End::exit(TERMINATED, String::new()),
                false => End::never_started(),
            };
            self.end.get_or_insert(end);
            self.write_end(pod).await?;
        }
        let preconditions = Some(Preconditions { uid: self.uid.clone(), resource_version: None });
        let now = DeleteParams { grace_period_seconds: Some(0), preconditions, ..DeleteParams::default() };
        let _permit = self.stage.requests.acquire().await?;
        self.api.delete(&self.name, &now).await?;
        Ok(())
    }

    async fn write_end(&mut self, pod: &Pod) -> Result<()> {
        // The container is gone before anybody hears of it.
        self.close();
        let since = self.started.as_ref().map(|started| started.since);
        match &self.end {
            Some(end) => self.write(status::ended(pod, since, end)).await,
            None => Ok(()),
        }
    }

    /// Notes that the container does not live any more.
    fn close(&self) {
        if let Some(run) = self.started.as_ref().and_then(|started| started.run) {
            self.stage.tables.end(run);
        }
    }

    async fn bind(&mut self) -> Result<()> {
        if self.bound {
            return Ok(());
        }
        let target = ObjectReference { kind: Some("Node".into()), name: Some(NODE.into()), ..ObjectReference::default() };
        let metadata = ObjectMeta { name: Some(self.name.clone()), uid: self.uid.clone(), ..ObjectMeta::default() };
        let _permit = self.stage.requests.acquire().await?;
        let _: Value =
            self.api.create_subresource("binding", &self.name, &PostParams::default(), &Binding { metadata, target }).await?;
        self.bound = true;
        Ok(())
    }

    async fn show(&mut self, play: &Play, status: Value) -> Result<()> {
        if self.shown.as_ref() != Some(play) {
            self.write(status).await?;
            self.shown = Some(play.clone());
        }
        Ok(())
    }

    async fn write(&self, status: Value) -> Result<()> {
        let _permit = self.stage.requests.acquire().await?;
        let patch = Patch::Strategic(json!({"metadata": {"uid": self.uid}, "status": status}));
        self.api.patch_status(&self.name, &PatchParams::default(), &patch).await?;
        Ok(())
    }
}

/// A container that reports and exits with the code that belongs to it.
fn reported(report: Report) -> End {
    let report = report.fit(REPORT_BYTES_MAX);
    End::exit(exit_code(&report.outcome), serde_json::to_string(&report).expect("a report is plain data"))
}

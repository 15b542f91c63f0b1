//! A lookup's pod, from its creation to its end. Whatever happens, it is deleted.

use crate::check::allowed;
use crate::cluster::Cluster;
use crate::create::name_with;
use crate::failure::{Exit, Failure, Result, told};
use backfill_core::condition::Reason;
use backfill_core::contract::{Answer, LookupOutcome, Notice, Served};
use backfill_core::plan::{ended, hindrance};
use backfill_core::request::LookupRequest;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::{DeleteParams, ListParams, LogParams, PostParams, Preconditions};
use kube::{Api, ResourceExt};
use std::cell::RefCell;
use std::pin::pin;
use std::time::{Duration, Instant};

/// How often the pod is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// A pod that does not start and does not say why is asked about after so long, and then again.
const SLOW: Duration = Duration::from_secs(5);

/// So long the API server has for what must still be done when nobody waits any more.
const TIDY: Duration = Duration::from_secs(10);

/// How many lines of a log are shown that holds no answer.
const LINES_SHOWN: usize = 5;

/// Asks by a pod, and deletes it: also when there is no answer in time, or the person goes away.
pub async fn look_up(cluster: &Cluster, request: &LookupRequest, image: &str, timeout: Duration) -> Result<Served> {
    refuse_missing_rights(cluster, &request.namespace).await?;
    let name = name_with(&format!("lookup-{}", request.feature_set), "");
    let wanted = request.pod(&name, image, u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX));
    let api = cluster.api::<Pod>(&request.namespace);
    let trouble = Trouble::default();
    let mut stop = pin!(stopped(timeout));
    let params = PostParams::default();
    let mut create = pin!(cluster.call("create the pod", api.create(&params, &wanted)));
    // Once it is asked for, it may be made although nobody waits any more.
    let (made, stopped) = tokio::select! {
        made = &mut create => (made, None),
        why = &mut stop => match tokio::time::timeout(TIDY, create).await {
            Ok(made) => (made, Some(why)),
            Err(_) => return Err(why.hint(format!("it may have been made: {}", by_hand(&name, &request.namespace)))),
        },
    };
    let made = made?;
    let answered = match stopped {
        Some(why) => Err(why),
        None => tokio::select! {
            answered = answer(cluster, &api, &made, &trouble) => answered,
            why = &mut stop => Err(trouble.last().into_iter().fold(why, Failure::hint)),
        },
    };
    delete(cluster, &api, &made).await;
    answered
}

/// Before anything is made: who may not read the answer or tidy up, should not begin.
async fn refuse_missing_rights(cluster: &Cluster, namespace: &str) -> Result<()> {
    let may = |verb, resource| allowed(cluster, Some(namespace), verb, "", resource);
    let (create, get, delete, log) =
        tokio::try_join!(may("create", "pods"), may("get", "pods"), may("delete", "pods"), may("get", "pods/log"))?;
    let rights = [(create, "create pods"), (get, "get pods"), (delete, "delete pods"), (log, "get pods/log")];
    let missing: Vec<&str> = rights.into_iter().filter(|(allowed, _)| !allowed).map(|(_, right)| right).collect();
    match missing.is_empty() {
        true => Ok(()),
        false => Err(Failure::new(format!("not allowed to {} in \"{namespace}\": a lookup is a pod", missing.join(", ")))
            .hint("who may create pods there can read all of its data; ask its administrator whether that is you")),
    }
}

/// Ends when nobody waits any more, and says why.
async fn stopped(timeout: Duration) -> Failure {
    tokio::select! {
        () = interrupted() => Failure::new("interrupted; the pod is deleted").exit(Exit::Interrupted),
        () = tokio::time::sleep(timeout) => {
            Failure::new(format!("no answer within {} s; the pod is deleted", timeout.as_secs())).exit(Exit::TimedOut)
        }
    }
}

/// Ctrl-C, the end of the terminal, or a polite kill.
async fn interrupted() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let (Ok(mut terminate), Ok(mut hang_up)) = (signal(SignalKind::terminate()), signal(SignalKind::hangup())) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
                _ = hang_up.recv() => {}
            }
            return;
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}

/// What keeps the pod from answering, as it was said last.
#[derive(Default)]
struct Trouble(RefCell<Option<String>>);

impl Trouble {
    fn say(&self, message: String) {
        let mut last = self.0.borrow_mut();
        if last.as_ref() != Some(&message) {
            eprintln!("waiting: {message}");
            *last = Some(message);
        }
    }

    fn last(&self) -> Option<String> {
        self.0.borrow().clone()
    }
}

async fn answer(cluster: &Cluster, api: &Api<Pod>, made: &Pod, trouble: &Trouble) -> Result<Served> {
    let name = made.name_any();
    let mut asked = Instant::now();
    let how = loop {
        let found = cluster.find("get the pod", api.get(&name)).await?.filter(|found| found.uid() == made.uid());
        let pod = found.ok_or_else(|| Failure::new(format!("the pod \"{name}\" was deleted by somebody else")))?;
        if let Some(how) = ended(&pod) {
            break how;
        }
        match hindrance(&pod) {
            // A node may come.
            Some(Notice { reason: Reason::Unschedulable, message }) => trouble.say(message),
            Some(Notice { reason, message }) => return Err(cannot_start(reason, &message)),
            None if asked.elapsed() >= SLOW => {
                asked = Instant::now();
                if let Some(message) = warning(cluster, &pod).await {
                    trouble.say(message);
                }
            }
            None => {}
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    };
    let silent = || Failure::new(format!("the pod \"{name}\" gave no answer: {how}"));
    let log = cluster.call("read its log", api.logs(&name, &LogParams::default())).await;
    let log = log.map_err(|error| silent().hint(error.what))?;
    match Answer::in_log(&log) {
        Some(Ok(Answer { outcome: LookupOutcome::Served(served), .. })) => Ok(served),
        Some(Ok(Answer { outcome: LookupOutcome::Failed(Notice { reason, message }), .. })) => {
            Err(told(&format!("{reason}: {message}")))
        }
        Some(Err(error)) => Err(told(&error.to_string())),
        None => {
            let lines: Vec<&str> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n      ");
            Err(if last.is_empty() { silent() } else { silent().hint(format!("its log ends with\n      {last}")) })
        }
    }
}

fn cannot_start(reason: Reason, message: &str) -> Failure {
    let failure = Failure::new(format!("{reason}: {message}"));
    match reason {
        Reason::ImagePull => failure.hint("name another image with --image; the FeatureStore's jobs.imagePullSecrets pull it"),
        _ => failure,
    }
}

/// The newest warning about a pod, as far as the person may see events.
async fn warning(cluster: &Cluster, pod: &Pod) -> Option<String> {
    let api = cluster.api::<Event>(&pod.namespace()?);
    let params = ListParams::default().fields(&format!("involvedObject.uid={},type=Warning", pod.uid()?)).limit(20);
    let found = cluster.try_call(api.list(&params)).await.ok()?;
    let newest = found.items.into_iter().max_by_key(|event| event.last_timestamp.clone())?;
    Some(format!("pod {}: {}: {}", pod.name_any(), newest.reason.unwrap_or_default(), newest.message.unwrap_or_default()))
}

async fn delete(cluster: &Cluster, api: &Api<Pod>, made: &Pod) {
    let name = made.name_any();
    let preconditions = Some(Preconditions { uid: made.uid(), resource_version: None });
    let params = DeleteParams { preconditions, ..DeleteParams::default() };
    let deleted = tokio::time::timeout(TIDY, cluster.find("delete the pod", api.delete(&name, &params))).await;
    let why = match deleted {
        Ok(Ok(_)) => return,
        Ok(Err(failure)) => failure.to_string(),
        Err(_) => "the API server does not answer".to_owned(),
    };
    eprintln!("warning: the pod \"{name}\" is left, {}: {why}", by_hand(&name, &made.namespace().unwrap_or_default()));
}

fn by_hand(name: &str, namespace: &str) -> String {
    format!("delete it: kubectl delete pod {name} -n {namespace}")
}

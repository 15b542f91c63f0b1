//! Stays with a backfill until its end. The backfill does not depend on that: who leaves may come back.

use crate::args::{Connection, Follow, Format, Output};
use crate::cluster::Cluster;
use crate::failure::{Exit, Failure, Result};
use crate::lane::{conditions, line, place, would_change};
use crate::live::View;
use crate::{find, logs};
use backfill_core::api::FeatureSetBackfill;
use backfill_core::condition::{ConditionType, Reason, is_true};
use backfill_core::plan::rests;
use futures::{Stream, StreamExt};
use kube::ResourceExt;
use kube::runtime::watcher::{self, watch_object};
use std::time::Duration;

/// What is shown meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// Nothing but the end.
    End,
    /// Progress, on standard error.
    Progress,
    /// Each state, as one line of JSON on standard output.
    Json,
}

/// `backfill watch`.
pub async fn watch(connection: &Connection, name: &str, timeout: Option<Duration>, output: Output) -> Result<Exit> {
    let shown = match output.output {
        None | Some(Format::Wide) => Shown::Progress,
        Some(Format::Json) => Shown::Json,
        Some(Format::Yaml | Format::Name) => return Err(Failure::usage("watch prints json or nothing").hint("give -o json")),
    };
    follow(connection, name, timeout, shown).await
}

/// `backfill wait`.
pub async fn wait(connection: &Connection, name: &str, timeout: Option<Duration>) -> Result<Exit> {
    follow(connection, name, timeout, Shown::End).await
}

async fn follow(connection: &Connection, name: &str, timeout: Option<Duration>, shown: Shown) -> Result<Exit> {
    let (cluster, backfill) = find::named(connection, name).await?;
    until_end(&cluster, &backfill, timeout, shown).await.map(|ended| exit(&ended))
}

/// Stays as the flags ask for.
pub async fn stay(cluster: &Cluster, backfill: &FeatureSetBackfill, asked: &Follow) -> Result<Exit> {
    let shown = if asked.watch { Shown::Progress } else { Shown::End };
    let end = async { until_end(cluster, backfill, asked.timeout, shown).await.map(|ended| exit(&ended)) };
    if !asked.follow_logs {
        return end.await;
    }
    let logs = logs::follow(cluster, backfill, None, None);
    let (end, logs) = tokio::join!(end, logs);
    let end = end?;
    logs.map(|()| end)
}

/// Stays until the run that the backfill asks for now has ended. Returns it as it then is.
pub async fn until_end(
    cluster: &Cluster,
    backfill: &FeatureSetBackfill,
    timeout: Option<Duration>,
    shown: Shown,
) -> Result<FeatureSetBackfill> {
    let states = states(cluster, backfill);
    let place = place(backfill);
    let end = async {
        let mut view = View::new(shown);
        let mut states = std::pin::pin!(states);
        while let Some(state) = states.next().await {
            let state = state?;
            show(&state, shown, &mut view)?;
            if rests(&state) {
                view.end();
                tell(&state, shown);
                return Ok(state);
            }
        }
        Err(Failure::new("the watch ended").hint(format!("go on: kubectl features backfill watch {place}")))
    };
    let late = async {
        match timeout {
            Some(timeout) => tokio::time::sleep(timeout).await,
            None => std::future::pending().await,
        }
    };
    let goes_on = |what: String, exit| {
        let hint = format!("the backfill goes on; to see it again: kubectl features backfill watch {place}");
        Err(Failure::new(what).exit(exit).hint(hint))
    };
    tokio::select! {
        end = end => end,
        _ = tokio::signal::ctrl_c() => goes_on("interrupted".to_owned(), Exit::Interrupted),
        () = late => goes_on(format!("not ended within {} s", timeout.unwrap_or_default().as_secs()), Exit::TimedOut),
    }
}

/// The states of one backfill from now on; an error when it is deleted.
pub fn states(cluster: &Cluster, backfill: &FeatureSetBackfill) -> impl Stream<Item = Result<FeatureSetBackfill>> {
    let (name, namespace, uid) = (backfill.name_any(), backfill.namespace().unwrap_or_default(), backfill.uid());
    let events = watch_object(cluster.api::<FeatureSetBackfill>(&namespace), &name);
    let mut troubles = 0;
    events.filter_map(move |event| {
        let gone = || Failure::new(format!("the backfill \"{name}\" was deleted")).exit(Exit::Cancelled);
        let state = match event {
            Ok(Some(state)) if state.uid() == uid => {
                troubles = 0;
                Some(Ok(state))
            }
            Ok(_) => Some(Err(gone())),
            Err(error) => {
                troubles += 1;
                trouble(&error, troubles).map(Err)
            }
        };
        let pause = if troubles > 0 { Duration::from_secs(1) } else { Duration::ZERO };
        async move {
            tokio::time::sleep(pause).await;
            state
        }
    })
}

/// A watch begins again by itself. What will not get better ends it.
fn trouble(error: &watcher::Error, times: u32) -> Option<Failure> {
    let (watcher::Error::InitialListFailed(kube::Error::Api(status))
    | watcher::Error::WatchStartFailed(kube::Error::Api(status))
    | watcher::Error::WatchError(status)) = error
    else {
        if times == 5 {
            eprintln!("the API server does not answer; trying again: {error}");
        }
        return None;
    };
    let refused = matches!(status.code, 401 | 403);
    refused.then(|| {
        Failure::new(format!("not allowed to watch the backfill: {}", status.message))
            .hint("see what you may do: kubectl features check")
    })
}

fn show(state: &FeatureSetBackfill, shown: Shown, view: &mut View) -> Result<()> {
    match shown {
        Shown::End => {}
        Shown::Progress => view.show(state),
        Shown::Json => {
            let mut state = state.clone();
            state.metadata.managed_fields = None;
            let line = serde_json::to_string(&state);
            println!("{}", line.map_err(|error| Failure::new(format!("cannot print the backfill: {error}")))?);
        }
    }
    Ok(())
}

/// Says how it ended.
fn tell(backfill: &FeatureSetBackfill, shown: Shown) {
    if shown != Shown::Json {
        eprintln!("{}: {}", backfill.name_any(), line(backfill));
    }
    let name = place(backfill);
    match exit(backfill) {
        Exit::Failed => eprintln!("hint: see why: kubectl features backfill status {name}"),
        Exit::WouldChange => eprintln!("hint: publish it: kubectl features backfill plan {name} --apply"),
        Exit::Ok | Exit::Error | Exit::Usage | Exit::Cancelled | Exit::NoRow | Exit::TimedOut | Exit::Interrupted => {}
    }
}

/// What the exit code says of a backfill that has ended.
pub fn exit(backfill: &FeatureSetBackfill) -> Exit {
    let conditions = conditions(backfill);
    let failed = conditions.iter().find(|condition| condition.kind == ConditionType::Failed);
    match () {
        () if is_true(conditions, ConditionType::Complete) => Exit::Ok,
        () if is_true(conditions, ConditionType::Failed) => match failed.map(|condition| condition.reason) {
            Some(Reason::Cancelled | Reason::Deleted) => Exit::Cancelled,
            _ => Exit::Failed,
        },
        () if would_change(backfill) => Exit::WouldChange,
        () => Exit::Ok,
    }
}

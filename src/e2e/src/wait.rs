//! Waiting for a condition, with a limit.

use anyhow::{Context, Result, bail};
use kube::Api;
use kube::runtime::wait::{Condition, await_condition};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::time::Duration;

/// How long tests wait for what takes moments on an idle machine.
pub const LIMIT: Duration = Duration::from_secs(30);

/// How often a fact is looked up that cannot be watched.
const PACE: Duration = Duration::from_millis(50);

/// Waits until the object meets the condition; fails after [`LIMIT`] with the object as it then is. `None`: it was gone.
pub async fn until<K>(api: &Api<K>, name: &str, condition: impl Condition<K>) -> Result<Option<K>>
where
    K: kube::Resource + Clone + Debug + Serialize + DeserializeOwned + Send + 'static,
{
    until_within(api, name, condition, LIMIT).await
}

/// The same with another limit.
pub async fn until_within<K>(api: &Api<K>, name: &str, condition: impl Condition<K>, limit: Duration) -> Result<Option<K>>
where
    K: kube::Resource + Clone + Debug + Serialize + DeserializeOwned + Send + 'static,
{
    match tokio::time::timeout(limit, await_condition(api.clone(), name, condition)).await {
        Ok(object) => object.with_context(|| format!("cannot watch {name}")),
        Err(_) => {
            let object = api.get_opt(name).await?;
            bail!("waited {limit:?} for {name}, which is {}", serde_json::to_string_pretty(&object)?)
        }
    }
}

/// Waits until `look` finds something; fails after [`LIMIT`] with `what` was looked for.
pub async fn eventually<T>(what: &str, look: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    eventually_within(what, LIMIT, look).await
}

/// The same with another limit.
pub async fn eventually_within<T>(what: &str, limit: Duration, mut look: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let found = async {
        loop {
            if let Some(found) = look().await? {
                return Ok(found);
            }
            tokio::time::sleep(PACE).await;
        }
    };
    tokio::time::timeout(limit, found).await.unwrap_or_else(|_| bail!("waited {limit:?} for {what}"))
}

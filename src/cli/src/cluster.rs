//! The API server, as the user's kubeconfig and flags name it.

use crate::args::Connection;
use crate::failure::{Exit, Failure, Result};
use k8s_openapi::NamespaceResourceScope;
use kube::api::{ListParams, ObjectList};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::Status;
use kube::{Api, Client, Config, Error, Resource};
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::time::Duration;

/// How many objects a page of a list has.
const PAGE: u32 = 500;

/// A connection with the user's own rights.
pub struct Cluster {
    /// The client.
    pub client: Client,
    /// The kubeconfig's context; absent inside of a cluster.
    pub context: Option<String>,
    /// The namespace of the context.
    pub namespace: String,
    timeout: Option<Duration>,
}

impl Cluster {
    /// Reads the kubeconfig. Nothing is sent yet.
    pub async fn connect(connection: &Connection) -> Result<Self> {
        let (mut config, context) = config(connection).await?;
        if let Some(user) = &connection.impersonate {
            config.auth_info.impersonate = Some(user.clone());
        }
        if !connection.impersonate_group.is_empty() {
            if config.auth_info.impersonate.is_none() {
                return Err(Failure::usage("--as-group needs --as").hint("give the user, too: --as USER"));
            }
            config.auth_info.impersonate_groups = Some(connection.impersonate_group.clone());
        }
        let namespace = config.default_namespace.clone();
        let timeout = connection.request_timeout.filter(|timeout| !timeout.is_zero());
        // What a single call may take is up to `call`; a client that gives up by itself would cut watches.
        config.connect_timeout = timeout.or(config.connect_timeout);
        let client = Client::try_from(config).map_err(|error| unusable(&error.to_string()))?;
        Ok(Self { client, context, namespace, timeout })
    }

    /// The objects of a kind in a namespace.
    pub fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// One request, within `--request-timeout`. `what` follows "cannot", as in "list backfills".
    pub async fn call<T>(&self, what: &str, request: impl Future<Output = kube::Result<T>>) -> Result<T> {
        self.try_call(request).await.map_err(|error| self.explain(what, &error))
    }

    /// The same, with nothing where there is no such object.
    pub async fn find<T>(&self, what: &str, request: impl Future<Output = kube::Result<T>>) -> Result<Option<T>> {
        match self.try_call(request).await {
            Ok(found) => Ok(Some(found)),
            Err(Error::Api(status)) if status.code == 404 && names_an_object(&status) => Ok(None),
            Err(error) => Err(self.explain(what, &error)),
        }
    }

    /// The answer or error of one request, within `--request-timeout`.
    pub async fn try_call<T>(&self, request: impl Future<Output = kube::Result<T>>) -> kube::Result<T> {
        match self.timeout {
            None => request.await,
            Some(timeout) => match tokio::time::timeout(timeout, request).await {
                Ok(answer) => answer,
                Err(_) => Err(Error::Service(format!("no answer within --request-timeout of {} s", timeout.as_secs()).into())),
            },
        }
    }

    /// All objects that `params` selects, page by page.
    pub async fn list<K>(&self, what: &str, api: &Api<K>, params: &ListParams) -> Result<Vec<K>>
    where
        K: Clone + DeserializeOwned + Debug,
    {
        let mut params = params.clone().limit(PAGE);
        let mut found = Vec::new();
        loop {
            let page: ObjectList<K> = self.call(&format!("list {what}"), api.list(&params)).await?;
            found.extend(page.items);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Ok(found),
            }
        }
    }

    /// What went wrong, for the person at the keyboard.
    pub fn explain(&self, what: &str, error: &Error) -> Failure {
        let context = self.context.as_deref().map_or_else(String::new, |context| format!(" --context {context}"));
        let Error::Api(status) = error else {
            let hint = format!("look whether the cluster answers: kubectl cluster-info{context}");
            return Failure::new(format!("cannot {what}: {}", chain(error))).hint(hint);
        };
        let message = &status.message;
        match status.code {
            401 => Failure::new(format!("cannot {what}: the API server does not know you"))
                .hint("log in to the cluster again, or name another user with --user"),
            403 => Failure::new(format!("not allowed to {what}: {message}")).hint("see what you may do: kubectl features check"),
            404 if !names_an_object(status) => Failure::new(format!("cannot {what}: this cluster does not know the resource"))
                .hint("see what is missing: kubectl features check --pre"),
            422 => Failure::new(format!("the API server refuses to {what}: {message}")).exit(Exit::Usage),
            _ => Failure::new(format!("cannot {what}: {message}")),
        }
    }
}

async fn config(connection: &Connection) -> Result<(Config, Option<String>)> {
    let options = KubeConfigOptions {
        context: connection.context.clone(),
        cluster: connection.cluster.clone(),
        user: connection.user.clone(),
    };
    let read = match &connection.kubeconfig {
        Some(path) => Kubeconfig::read_from(path),
        None => Kubeconfig::read(),
    };
    let named =
        connection.kubeconfig.is_some() || options.context.is_some() || options.cluster.is_some() || options.user.is_some();
    match read {
        Ok(file) => {
            let context = options.context.clone().or_else(|| file.current_context.clone());
            let config = Config::from_custom_kubeconfig(file, &options).await;
            Ok((config.map_err(|error| unusable(&error.to_string()))?, context))
        }
        Err(error) if named => Err(unusable(&chain(&error))),
        Err(error) => match Config::incluster() {
            Ok(config) => Ok((config, None)),
            Err(_) => Err(unusable(&chain(&error))),
        },
    }
}

fn unusable(why: &str) -> Failure {
    Failure::new(format!("no usable kubeconfig: {why}"))
        .hint("name one with --kubeconfig or KUBECONFIG; see what there is: kubectl config get-contexts")
}

/// Whether an object is missing; otherwise it is the kind that the server does not know.
fn names_an_object(status: &Status) -> bool {
    status.details.as_ref().is_some_and(|details| !details.name.is_empty())
}

/// An error and its causes, without what is said twice.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

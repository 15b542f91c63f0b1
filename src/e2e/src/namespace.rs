//! A namespace of one test.

use crate::kubectl::{self, Output};
use crate::wait;
use anyhow::Result;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client, Resource, ResourceExt};
use std::path::PathBuf;

/// A namespace of one test, with a name of its own. It ends with the cluster.
#[derive(Clone)]
pub struct Namespace {
    client: Client,
    kubeconfig: PathBuf,
    name: String,
}

impl Namespace {
    pub(crate) async fn create(client: Client, kubeconfig: PathBuf, prefix: &str) -> Result<Self> {
        let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(client.clone());
        let metadata = ObjectMeta { generate_name: Some(format!("{prefix}-")), ..ObjectMeta::default() };
        let wanted = k8s_openapi::api::core::v1::Namespace { metadata, ..Default::default() };
        let name = namespaces.create(&PostParams::default(), &wanted).await?.name_any();
        let namespace = Self { client, kubeconfig, name };
        // Pods are refused until their service account is there.
        wait::until(&namespace.api::<ServiceAccount>(), "default", |account: Option<&ServiceAccount>| account.is_some()).await?;
        Ok(namespace)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The admin's access to a kind of objects in it.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.name)
    }

    /// Runs kubectl as admin in this namespace.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<Output> {
        self.kubectl_with(arguments, "").await
    }

    /// Runs kubectl as admin in this namespace; `input` is what `-f -` reads.
    pub async fn kubectl_with(&self, arguments: &[&str], input: &str) -> Result<Output> {
        let arguments = [&["--namespace", &self.name], arguments].concat();
        kubectl::kubectl(&self.kubeconfig, &arguments, input).await
    }

    /// Applies manifests (YAML or JSON) in this namespace, as users do.
    pub async fn apply(&self, manifests: &str) -> Result<()> {
        self.kubectl_with(&["apply", "-f", "-"], manifests).await?.ok().map(drop)
    }
}

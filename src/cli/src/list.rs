//! `backfill list` and `backfill get`.

use crate::args::{Connection, Everywhere, Output};
use crate::cluster::Cluster;
use crate::failure::{Exit, Failure, Result};
use crate::find::newest_first;
use crate::print::phase;
use crate::{environment, find, print};
use backfill_core::api::{FeatureSet, FeatureSetBackfill};
use k8s_openapi::NamespaceResourceScope;
use kube::api::ListParams;
use kube::{Api, Resource, ResourceExt};

/// Where a command looks: a namespace, or all.
pub struct Place {
    /// The cluster.
    pub cluster: Cluster,
    /// The namespace; none for all.
    pub namespace: Option<String>,
    selection: Everywhere,
}

impl Place {
    /// Reads the flags.
    pub async fn of(connection: &Connection, selection: &Everywhere) -> Result<Self> {
        if selection.all_namespaces && (connection.environment.is_some() || connection.namespace.is_some()) {
            return Err(Failure::usage("-A looks everywhere, --environment and -n at one place").hint("give one of them"));
        }
        let cluster = Cluster::connect(connection).await?;
        let namespace = match selection.all_namespaces {
            true => None,
            false => Some(environment::namespace(&cluster, connection).await?),
        };
        Ok(Self { cluster, namespace, selection: selection.clone() })
    }

    /// The objects of a kind there.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        match &self.namespace {
            Some(namespace) => self.cluster.api(namespace),
            None => Api::all(self.cluster.client.clone()),
        }
    }

    /// What of them is asked for.
    pub fn params(&self) -> ListParams {
        let mut params = ListParams::default();
        params.label_selector.clone_from(&self.selection.selector);
        params.field_selector.clone_from(&self.selection.field_selector);
        params
    }

    /// For messages: `in "prod"`.
    pub fn words(&self) -> String {
        self.namespace.as_ref().map_or_else(|| "in this cluster".to_owned(), |namespace| format!("in \"{namespace}\""))
    }

    /// The backfills there, the newest first.
    pub async fn backfills(&self) -> Result<Vec<FeatureSetBackfill>> {
        Ok(newest_first(self.cluster.list("backfills", &self.api(), &self.params()).await?))
    }
}

/// `backfill list`.
pub async fn list(
    connection: &Connection,
    selection: &Everywhere,
    feature_set: Option<&str>,
    wanted: Option<&str>,
    output: Output,
) -> Result<Exit> {
    let place = Place::of(connection, selection).await?;
    let mut params = place.params();
    if let Some(name) = feature_set {
        let name = match &place.namespace {
            Some(namespace) => {
                let sets = place.cluster.list("feature sets", &place.api::<FeatureSet>(), &ListParams::default()).await?;
                find::feature_set(&sets, name, namespace)?.name_any()
            }
            None => name.to_owned(),
        };
        let more = format!("spec.featureSet={name}");
        params.field_selector = Some(params.field_selector.map_or_else(|| more.clone(), |fields| format!("{fields},{more}")));
    }
    let mut found = newest_first(place.cluster.list("backfills", &place.api(), &params).await?);
    found.retain(|backfill| wanted.is_none_or(|word| phase(backfill).eq_ignore_ascii_case(word)));
    if found.is_empty() && output.output.is_none() {
        eprintln!("No backfills {}.", place.words());
        return Ok(Exit::Ok);
    }
    print::objects(&found, output, |wide| print::backfills(&found, place.namespace.is_none(), wide))?;
    Ok(Exit::Ok)
}

/// `backfill get`.
pub async fn get(connection: &Connection, name: &str, output: Output) -> Result<Exit> {
    let (_, backfill) = find::named(connection, name).await?;
    print::backfill(&backfill, output)?;
    Ok(Exit::Ok)
}

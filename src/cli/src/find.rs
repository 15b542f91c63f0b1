//! From what people type to objects: names in any case, views, `@latest`.

use crate::args::Connection;
use crate::cluster::Cluster;
use crate::environment;
use crate::failure::{Failure, Result};
use backfill_core::api::{FeatureSet, FeatureSetBackfill};
use backfill_core::plan::created;
use backfill_core::request::hint;
use kube::ResourceExt;
use kube::api::ListParams;

/// The newest backfill of the namespace.
pub const LATEST: &str = "@latest";

/// The feature set of that name or view, in any case; `_` counts as `-`.
pub fn feature_set<'a>(sets: &'a [FeatureSet], name: &str, namespace: &str) -> Result<&'a FeatureSet> {
    let wanted = plain(name);
    let exact = sets.iter().find(|set| set.metadata.name.as_deref() == Some(name));
    let is = |set: &&FeatureSet| {
        plain(&set.name_any()) == wanted || set.spec.view.as_deref().is_some_and(|view| plain(view) == wanted)
    };
    let mut found = exact.map_or_else(|| sets.iter().filter(is).collect(), |set| vec![set]);
    match (found.pop(), found.as_slice()) {
        (Some(set), []) => Ok(set),
        (Some(last), others) => {
            let names: Vec<String> = others.iter().map(|set| set.name_any()).chain([last.name_any()]).collect();
            Err(Failure::usage(format!("\"{name}\" is the name or the view of several feature sets: {}", names.join(", ")))
                .hint("give the name of the one that you mean"))
        }
        (None, _) => {
            let names: Vec<String> = sets.iter().map(ResourceExt::name_any).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            Err(Failure::new(format!("no feature set \"{name}\" in \"{namespace}\"")).hint(way_out(
                name,
                &names,
                "in another environment? give --environment, or see kubectl get fset -A",
            )))
        }
    }
}

fn plain(name: &str) -> String {
    name.to_lowercase().replace('_', "-")
}

/// What was probably meant; without anything to choose from, where to look.
pub fn way_out(name: &str, names: &[&str], otherwise: &str) -> String {
    if names.is_empty() { otherwise.to_owned() } else { hint(name, names).trim_start_matches("; ").to_owned() }
}

/// The cluster, and the backfill of that name in the environment.
pub async fn named(connection: &Connection, name: &str) -> Result<(Cluster, FeatureSetBackfill)> {
    let (cluster, namespace) = environment::enter(connection).await?;
    let backfill = backfill(&cluster, &namespace, name).await?;
    Ok((cluster, backfill))
}

/// The backfill of that name, or the newest.
pub async fn backfill(cluster: &Cluster, namespace: &str, name: &str) -> Result<FeatureSetBackfill> {
    let api = cluster.api::<FeatureSetBackfill>(namespace);
    if name == LATEST {
        let all = cluster.list("backfills", &api, &ListParams::default()).await?;
        return newest_first(all).into_iter().next().ok_or_else(|| {
            Failure::new(format!("no backfill in \"{namespace}\""))
                .hint("create one: kubectl features backfill --feature-set NAME --start-time TIME --stop-time TIME")
        });
    }
    match cluster.find("get the backfill", api.get(name)).await? {
        Some(backfill) => Ok(backfill),
        None => {
            let all = cluster.list("backfills", &api, &ListParams::default()).await?;
            let names: Vec<String> = newest_first(all).iter().map(ResourceExt::name_any).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let elsewhere = "in another environment? give --environment, or see kubectl features backfill list -A";
            Err(Failure::new(format!("no backfill \"{name}\" in \"{namespace}\"")).hint(way_out(name, &names, elsewhere)))
        }
    }
}

/// In the order in which people look for them.
pub fn newest_first(mut backfills: Vec<FeatureSetBackfill>) -> Vec<FeatureSetBackfill> {
    backfills.sort_by_cached_key(|backfill| (std::cmp::Reverse(created(backfill)), backfill.namespace(), backfill.name_any()));
    backfills
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(name: &str, view: Option<&str>) -> FeatureSet {
        serde_json::from_value(json!({
            "metadata": { "name": name },
            "spec": {
                "view": view, "entities": [], "timestampColumn": "t", "features": [], "sources": [], "transformation": { "sql": "" },
            },
        }))
        .expect("a feature set")
    }

    #[test]
    fn a_feature_set_is_found_by_name_or_view_in_any_case() {
        let sets = [set("user-clicks", Some("UserClicks_v2")), set("views", None)];
        for name in ["user-clicks", "USER_CLICKS", "userclicks_v2", "UserClicks-V2"] {
            assert_eq!(feature_set(&sets, name, "prod").expect(name).name_any(), "user-clicks");
        }
        let missing = feature_set(&sets, "vews", "prod").expect_err("there is none").to_string();
        assert_eq!(
            missing,
            "error: no feature set \"vews\" in \"prod\"\nhint: did you mean \"views\"? there are: user-clicks, views"
        );
    }

    #[test]
    fn an_exact_name_wins_and_two_views_are_not_guessed() {
        let sets = [set("clicks", None), set("other", Some("clicks")), set("third", Some("Clicks"))];
        assert_eq!(feature_set(&sets, "clicks", "prod").expect("exact").name_any(), "clicks");
        let several = feature_set(&sets, "CLICKS", "prod").expect_err("three").to_string();
        assert!(several.contains("clicks, other, third"), "{several}");
    }
}

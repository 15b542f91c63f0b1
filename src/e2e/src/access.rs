//! Who talks to the API server, and from where.

use serde_json::{Value, json};
use std::path::Path;

/// Whose requests they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// A member of `system:masters`, to whom everything is allowed.
    Admin,
    /// A person, to whom nothing is allowed but by roles.
    User {
        /// The name.
        name: String,
        /// The groups.
        groups: Vec<String>,
    },
    /// A service account.
    ServiceAccount {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

/// A kubeconfig, as JSON.
///
/// A person is the admin's impersonation of them: authorization and admission see the person alone.
pub fn kubeconfig(server: &str, authority: &Path, token: &str, user: Option<(&str, &[String])>) -> Value {
    let mut credentials = json!({"token": token});
    if let Some((name, groups)) = user {
        credentials["as"] = json!(name);
        credentials["as-groups"] = json!(groups);
    }
    let mut cluster = json!({"server": server});
    if server.starts_with("https:") {
        cluster["certificate-authority"] = json!(authority);
    }
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": "default"}}],
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "test", "user": credentials}],
    })
}

//! The four resources of the group `featureset.dev`, version `v1alpha1`.
//!
//! Doc comments of fields are user documentation: `kubectl explain` prints them.

mod backfill;
mod crds;
mod feature_set;
pub(crate) mod schema;
mod store;
mod template;
mod types;

pub use backfill::*;
pub use crds::{crds, lacking, manifests};
pub use feature_set::*;
pub use store::*;
pub use template::*;
pub use types::*;

/// The API group of all resources.
pub const GROUP: &str = "featureset.dev";

/// The directory at which a store's volume claim is mounted in run pods; `file://` URIs and SQLite paths lie below it.
pub const VOLUME: &str = "/store";

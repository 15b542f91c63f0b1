//! Kubernetes clusters for tests, built from source: with pods that are played, or with nodes that run real ones.
//!
//! etcd, kube-apiserver and kube-controller-manager are the real ones, of the version in `tools/`, as plain processes of the test
//! process. Without nodes a played kubelet binds the pods of backfills and reports about them what a test's script says; with
//! [`node`]s, on Linux and as root, pods are real.
//! Knows the resources and the contract of [`backfill_core`]; never the data crates: what a worker does to data is tested there.

mod access;
mod certificates;
mod cluster;
pub mod docs;
pub mod helm;
mod kubectl;
pub mod kubelet;
mod namespace;
pub mod node;
mod operator;
mod port;
mod process;
pub mod programs;
pub mod proxy;
mod resources;
mod shared;
mod skip;
mod tools;
mod wait;

pub use access::Who;
pub use cluster::{Cluster, Options};
pub use kubectl::{Output, kubectl, run};
pub use kubelet::{Act, Kubelet};
pub use namespace::Namespace;
pub use operator::{Operator, OperatorOptions};
pub use proxy::Proxy;
pub use resources::{in_phase, manifest};
pub use shared::{Shared, test};
pub use skip::{skip_long, skip_without_nodes, wants_long};
pub use tools::path as tool;
pub use wait::{LIMIT, eventually, eventually_within, until, until_within};

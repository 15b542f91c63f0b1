//! A Kubernetes control plane for tests, without containers, and pods that are played.
//!
//! etcd, kube-apiserver and kube-controller-manager are the real ones, of the version in `tools/`, as plain processes of the test
//! process. There is no node: a played kubelet binds the pods of backfills and reports about them what a test's script says.
//! Knows the resources and the contract of [`backfill_core`]; never the data crates: what a worker does to data is tested there.

mod access;
mod certificates;
mod cluster;
mod kubectl;
pub mod kubelet;
mod namespace;
mod operator;
mod process;
pub mod proxy;
mod shared;
mod tools;
mod wait;

pub use access::Who;
pub use cluster::{Cluster, Options};
pub use kubectl::Output;
pub use kubelet::{Act, Kubelet};
pub use namespace::Namespace;
pub use operator::{Operator, OperatorOptions};
pub use proxy::Proxy;
pub use shared::{Shared, test};
pub use tools::path as tool;
pub use wait::{LIMIT, eventually, until};

//! Tests against a real control plane, one file per behaviour that a user sees. All share one cluster, each in a namespace of its own.

mod cluster;
mod crds;
mod jobs;

//! Backfills on a cluster with a node: real pods of the real images, Redis and S3 in the cluster, namespaces that enforce restricted
//! pods. Nothing is played. Where nodes cannot run, each test says that it was skipped, and why.

mod backfill;
mod cluster;
mod data;
mod faults;
mod first_steps;
mod online;
mod spark;
mod stores;
mod trouble;
mod volume;
mod world;

//! The online stores and the online step.

pub mod feast;
mod redis_cluster;
pub mod redis_server;
mod redis_store;
mod step;
mod stores;
mod world;

//! The online stores and the online step.

mod feast;
mod redis_server;
mod redis_store;
mod step;
mod stores;
mod world;

//! The resources and every decision of the backfill operator.
//!
//! Deliberately absent: a Kubernetes client, a runtime, a clock, the environment, Arrow. Time is an argument;
//! what is decided here is decided the same way by the operator, by the worker's `local` command and by the CLI.

pub mod api;
pub mod condition;
pub mod contract;
pub mod feast;
pub mod hex;
pub mod key;
pub mod online;
pub mod plan;
pub mod request;
pub mod sql;
pub mod time;
pub mod window;

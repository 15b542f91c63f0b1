//! The operator: observe, plan, perform.
//!
//! It decides nothing: [`backfill_core::plan`] does. This crate keeps caches of what the API server tells, hands them to the plan,
//! and carries out what the plan asks for. Every write may be lost or refused; then everything is observed again.

pub mod caches;
pub mod caretaker;
pub mod clock;
pub mod definitions;
pub mod index;
pub mod latest;
pub mod metrics;
pub mod observe;
pub mod perform;
pub mod progress;
pub mod reconcile;
pub mod run;
pub mod server;
pub mod shell;
pub mod spark;
pub mod strict;
pub mod templates;

//! Replaces a feature set's data: in the offline table, then in the online store.
//!
//! Deliberately absent: Kubernetes. What is to be done arrives as an [`Order`](backfill_core::contract::Order), what was done
//! leaves as a [`Report`](backfill_core::contract::Report).

pub mod context;
pub mod delta;
pub mod failpoint;
pub mod failure;
pub mod local;
pub mod offline;
pub mod online;
pub mod record;
pub mod report;
pub mod serve;
pub mod session;
pub mod steps;
pub mod storage;

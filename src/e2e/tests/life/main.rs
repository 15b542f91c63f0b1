//! The life of backfills on a real control plane, with the operator as a process and pods that are played. One file per part of life.

mod clock;
mod failures;
mod gitops;
mod moments;
mod process;
mod queue;
mod stops;
mod world;

//! `kubectl features` as a process, against a real API server, the operator, and pods that are played.

mod changes;
mod connection;
mod create;
mod dashboard;
mod follow;
mod golden;
mod krew;
mod kubelet;
mod logs;
mod lookup;
mod online;
mod parity;
mod readme;
mod terminal;
mod world;

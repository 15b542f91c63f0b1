//! The worker against real stores: Delta tables on disk, SQLite files, and a Redis server that the tests start.

mod bad_input;
mod crash;
mod faults;
mod guards;
mod interval;
mod lookup;
mod lost_ack;
mod model;
mod online;
mod online_only;
mod online_store;
mod peers;
mod plan;
mod quickstart;
mod races;
mod settle;
mod sources;
mod spark;
mod support;
mod tables;
mod types;
mod undo;
mod zombie;

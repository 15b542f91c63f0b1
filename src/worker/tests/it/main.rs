//! The worker against real stores: Delta tables on disk, SQLite files, and a Redis server that the tests start.

mod crash;
mod faults;
mod interval;
mod online;
mod support;

//! What tests of whole backfills share: a feature set with real stores in a folder of its own, the built program run on manifests
//! as users write them, and the hands and eyes of everybody else who uses the stores.

mod ended;
mod online;
mod port;
mod python;
mod rides;
mod stores;
mod table;
mod world;

pub use ended::Ended;
pub use online::key;
pub use port::free_port;
pub use python::python;
pub use rides::{Ride, at, ride, rides_batch, rides_with, three};
pub(crate) use stores::{on_both_stores, on_both_stores_and_by_spark};
pub use table::{Data, add, create_table, parquet_bytes, plain_schema, rides_of_table};
pub use world::{Kind, World, filled, object, quickstart, quickstart_by, quickstart_part};

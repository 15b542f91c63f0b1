//! DataFusion sessions within the order's size.

use crate::context::Context;
use crate::failure::{Failure, Result};
use backfill_core::condition::Reason;
use backfill_core::contract::Size;
use deltalake::datafusion::error::DataFusionError;
use deltalake::datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use deltalake::datafusion::execution::memory_pool::FairSpillPool;
use deltalake::datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use deltalake::datafusion::prelude::{SessionConfig, SessionContext};
use std::sync::Arc;

/// The share of a pod's memory that queries may hold; the rest is for writers, buffers outside the pool and the program itself.
const POOL_SHARE: f64 = 0.5;

/// What all sessions of a step share: the memory pool and the spill directory.
pub fn runtime(cx: &Context, size: &Size) -> Result<Arc<RuntimeEnv>> {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    let pool = (size.memory_bytes as f64 * POOL_SHARE) as usize;
    let disk = DiskManagerBuilder::default()
        .with_mode(DiskManagerMode::Directories(vec![cx.scratch.clone()]))
        .with_max_temp_directory_size(size.scratch_bytes);
    RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(FairSpillPool::new(pool)))
        .with_disk_manager_builder(disk)
        .build_arc()
        .map_err(|error| failure(&error, Reason::DiskFull))
}

/// A session in which nothing is visible yet, running each query on `partitions` threads.
pub fn session(runtime: &Arc<RuntimeEnv>, partitions: usize) -> SessionContext {
    let mut config = SessionConfig::new()
        .with_target_partitions(partitions.max(1))
        .with_information_schema(false)
        // Small batches keep the merge of a sort that spills within the pool.
        .with_batch_size(8192);
    config.options_mut().execution.parquet.pushdown_filters = true;
    // Tables keep plain strings: views would be copied once more before they are written.
    config.options_mut().execution.parquet.schema_force_view_types = false;
    config.options_mut().execution.time_zone = Some("UTC".into());
    SessionContext::new_with_config_rt(config, Arc::clone(runtime))
}

/// What an error of a query means for the backfill; `reason` when the error itself does not tell.
pub fn failure(error: &DataFusionError, reason: Reason) -> Failure {
    let root = error.find_root();
    let text = root.strip_backtrace();
    match root {
        DataFusionError::ResourcesExhausted(_) if text.contains("disk") || text.contains("temp") => {
            Failure::permanent(Reason::DiskFull, format!("{text}; choose a cluster template with more scratch"))
        }
        DataFusionError::ResourcesExhausted(_) => {
            Failure::permanent(Reason::OutOfMemory, format!("{text}; choose a larger cluster template"))
        }
        DataFusionError::IoError(io) if io.kind() == std::io::ErrorKind::StorageFull => {
            Failure::permanent(Reason::DiskFull, format!("the scratch space is full: {io}"))
        }
        DataFusionError::ObjectStore(source) => crate::storage::unreachable_store(source),
        _ => crate::storage::behind(error).unwrap_or_else(|| Failure::permanent(reason, text)),
    }
}

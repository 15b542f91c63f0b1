//! Shows that a commit changed nothing outside its boundaries, by comparing its version with the parent of that version.

use crate::delta::{self, DataFile};
use crate::failure::{Failure, Result};
use crate::offline::hash::{Digest, Digester};
use crate::offline::preflight;
use crate::offline::scope::{Deletes, Overlap, quoted};
use crate::offline::stage;
use backfill_core::condition::Reason;
use backfill_core::contract::{Proof, Verdict};
use deltalake::DeltaTable;
use deltalake::arrow::array::{AsArray, RecordBatch};
use deltalake::datafusion::prelude::{SessionContext, col};
use deltalake::kernel::{Action, Version};
use std::collections::HashSet;

/// What a commit did, read from the table itself.
#[derive(Debug)]
pub struct Proved {
    /// The proof.
    pub proof: Proof,
    /// Rows of removed files inside the boundaries.
    pub rows_removed: u64,
    /// Rows outside the boundaries that were rewritten.
    pub rows_rescued: u64,
    /// Rows of added files inside the boundaries.
    pub rows_written: u64,
    /// Rows read for the proof.
    pub rows_read: u64,
    /// Files added by the commit.
    pub files_added: u64,
    /// Files removed by the commit.
    pub files_removed: u64,
    /// Bytes of the added files.
    pub bytes_written: u64,
}

/// Compares `version` with its parent.
///
/// Proven are: the files that differ are exactly those of the commit; the rows outside the boundaries in the removed files and
/// in the added ones are the same multiset, bit for bit. The latter also shows that no new row lies outside.
pub async fn prove(
    session: &SessionContext,
    table: &DeltaTable,
    version: Version,
    deletes: Deletes,
    time: &str,
) -> Result<Proved> {
    let after = delta::at(table, version).await?;
    let before = match version.checked_sub(1) {
        Some(parent) => Some(delta::at(table, parent).await?),
        None => None,
    };
    let old = before.as_ref().map(|table| delta::files(table, time)).unwrap_or_default();
    let new = delta::files(&after, time);
    let paths = |files: &[DataFile]| -> HashSet<String> { files.iter().map(|file| file.add.path.clone()).collect() };
    let (old_paths, new_paths) = (paths(&old), paths(&new));
    let removed: Vec<DataFile> = old.into_iter().filter(|file| !new_paths.contains(&file.add.path)).collect();
    let added: Vec<DataFile> = new.into_iter().filter(|file| !old_paths.contains(&file.add.path)).collect();
    let same_files = commit_says(table, version, &removed, &added).await?;
    let (files_removed, files_added) = (removed.len() as u64, added.len() as u64);
    let bytes_written = added.iter().map(|file| file.add.size.unsigned_abs()).sum();
    // Both sides in the columns of the new version: a feature that the commit added is null in the rows before.
    let digester = Digester::new(preflight::arrow_schema(&after))?;
    let look = Look { session, digester: &digester, deletes, time };
    // Statistics of removed files were trusted when the commit was made; those of the added files are ours and are not.
    let outside_before = match &before {
        Some(before) => look.outside(before, removed, Trust::Statistics).await?,
        None => Sum::default(),
    };
    let outside_after = look.outside(&after, added, Trust::Nothing).await?;
    let agree = same_files && outside_before.outside == outside_after.outside;
    let hex = |digest: Digest| format!("{:032x}", digest.sum);
    Ok(Proved {
        proof: Proof {
            verdict: match (&before, agree) {
                (None, true) => Verdict::NotApplicable,
                (Some(_), true) => Verdict::Passed,
                (_, false) => Verdict::Failed,
            },
            files_untouched: new_paths.intersection(&old_paths).count() as u64,
            rows_outside_before: outside_before.outside.rows,
            rows_outside_after: outside_after.outside.rows,
            hash_before: hex(outside_before.outside),
            hash_after: hex(outside_after.outside),
        },
        rows_removed: outside_before.all - outside_before.outside.rows,
        rows_rescued: outside_after.outside.rows,
        rows_written: outside_after.all - outside_after.outside.rows,
        rows_read: outside_before.read + outside_after.read,
        files_added,
        files_removed,
        bytes_written,
    })
}

/// Whether the files that differ are those that the commit names.
async fn commit_says(table: &DeltaTable, version: Version, removed: &[DataFile], added: &[DataFile]) -> Result<bool> {
    let actions = delta::commit_at(table, version)
        .await?
        .ok_or_else(|| Failure::permanent(Reason::SnapshotExpired, format!("the log entry of version {version} is gone")))?;
    let named = |take: fn(&Action) -> Option<&String>| -> HashSet<&String> { actions.iter().filter_map(take).collect() };
    let added_by_commit = named(|action| match action {
        Action::Add(add) => Some(&add.path),
        _ => None,
    });
    let removed_by_commit = named(|action| match action {
        Action::Remove(remove) => Some(&remove.path),
        _ => None,
    });
    Ok(added_by_commit == added.iter().map(|file| &file.add.path).collect()
        && removed_by_commit == removed.iter().map(|file| &file.add.path).collect())
}

#[derive(Default)]
struct Sum {
    all: u64,
    read: u64,
    outside: Digest,
}

/// Whether a file that lies wholly inside by its statistics is believed to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trust {
    Statistics,
    Nothing,
}

/// How rows outside the boundaries are found and summed up.
struct Look<'a> {
    session: &'a SessionContext,
    digester: &'a Digester,
    deletes: Deletes,
    time: &'a str,
}

impl Look<'_> {
    /// The rows outside the boundaries in some files of a version. Reads the time column of the files that are not trusted, and
    /// whole rows only when some lie outside.
    async fn outside(&self, table: &DeltaTable, files: Vec<DataFile>, trust: Trust) -> Result<Sum> {
        let Self { session, digester, deletes, time } = *self;
        let believed = |file: &DataFile| {
            let inside = deletes == Deletes::All || (trust == Trust::Statistics && deletes.overlap(file.time) == Overlap::Inside);
            inside && file.rows.is_some()
        };
        let (believed, to_read): (Vec<DataFile>, Vec<DataFile>) = files.into_iter().partition(believed);
        let mut sum = Sum { all: believed.iter().filter_map(|file| file.rows).sum(), ..Sum::default() };
        if to_read.is_empty() {
            return Ok(sum);
        }
        delta::register_store(session, table);
        let failing = |error| crate::session::failure(&error, Reason::TableCorrupted);
        let frame = session.read_table(delta::provider(table, Some(&to_read), None)?).map_err(failing)?;
        let mut times = stage::stream(frame.clone().select(vec![col(quoted(time))]).map_err(failing)?).await?;
        let mut inside_rows = 0;
        while let Some(batch) = stage::next(&mut times).await? {
            inside_rows += inside(&batch, deletes)? as u64;
            sum.read += batch.num_rows() as u64;
        }
        sum.all += sum.read;
        if inside_rows < sum.read {
            let mut rows = stage::stream(frame.filter(deletes.predicate(time).is_not_true()).map_err(failing)?).await?;
            while let Some(batch) = stage::next(&mut rows).await? {
                sum.outside += digester.digest(&batch)?;
            }
        }
        Ok(sum)
    }
}

fn inside(batch: &RecordBatch, deletes: Deletes) -> Result<usize> {
    let times = batch.column(0).as_primitive_opt().ok_or_else(|| {
        Failure::permanent(Reason::TableIncompatible, "the event-time column holds no UTC timestamps".to_owned())
    })?;
    Ok(deletes.mask(times).true_count())
}

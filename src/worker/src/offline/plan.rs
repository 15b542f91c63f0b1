//! What a plan says beyond what staging found: how many rows are the same before and after.

use crate::delta;
use crate::failure::Result;
use crate::offline::pin::{Manifest, Pin};
use crate::offline::publish;
use crate::offline::rescue;
use crate::offline::scope::quoted;
use crate::offline::shape::Shape;
use crate::offline::stage::{self, Target};
use backfill_core::condition::Reason;
use backfill_core::contract::OnlineReport;
use deltalake::DeltaTable;
use deltalake::arrow::array::{ArrayRef, AsArray, RecordBatch};
use deltalake::arrow::datatypes::Int64Type;
use deltalake::datafusion::common::{Column, JoinType, TableReference};
use deltalake::datafusion::error::DataFusionError;
use deltalake::datafusion::functions_aggregate::expr_fn::{count, max, sum};
use deltalake::datafusion::logical_expr::{BinaryExpr, Operator, when};
use deltalake::datafusion::prelude::{DataFrame, Expr, SessionContext, col, lit};

/// What would change.
#[derive(Debug, Default)]
pub struct Difference {
    /// Rows that are the same before and after.
    pub rows_unchanged: u64,
    /// Entities by what would become of their newest row, judged from the offline table alone.
    pub entities: OnlineReport,
}

/// Compares the staged rows with those that they would replace.
pub async fn difference(
    session: &SessionContext,
    table: Option<&DeltaTable>,
    pin: &Pin,
    manifest: &Manifest,
    target: &Target<'_>,
) -> Result<Difference> {
    let Some(table) = table else { return Ok(Difference::default()) };
    let shape = target.shape;
    let failing = |error: DataFusionError| crate::session::failure(&error, Reason::TableCorrupted);
    delta::register_store(session, table);
    let all = session.read_table(delta::provider(table, None, None)?).map_err(failing)?;
    let files = publish::affected(delta::files(table, &shape.time), pin.deletes, |_| false);
    let files: Vec<_> = files.into_iter().map(|(file, _)| file).collect();
    let old = session.read_table(delta::provider(table, Some(&files), None)?);
    let old = old.and_then(|old| old.filter(pin.deletes.predicate(&shape.time))).map_err(failing)?;
    let new = match manifest.adds.as_slice() {
        [] => old.clone().filter(lit(false)).map_err(failing)?,
        adds => rescue::read_back(session, target, adds, shape.rows.clone()).await?,
    };
    let rows_unchanged = one(unchanged(&old, &new, shape).map_err(failing)?).await?.first().copied().unwrap_or(0);
    let kept = all.filter(pin.deletes.predicate(&shape.time).is_not_true()).map_err(failing)?;
    let counts = one(entities(&old, &new, &kept, shape).map_err(failing)?).await?;
    let [removed, updated, kept_newer] = <[u64; 3]>::try_from(counts).unwrap_or_default();
    Ok(Difference {
        rows_unchanged,
        entities: OnlineReport {
            entities_removed: removed,
            entities_updated: updated,
            entities_kept_newer: kept_newer,
            ..OnlineReport::default()
        },
    })
}

/// The number of rows that are in both, every column equal.
fn unchanged(old: &DataFrame, new: &DataFrame, shape: &Shape) -> Result<DataFrame, DataFusionError> {
    let names: Vec<&String> = shape.rows.fields().iter().map(|field| field.name()).collect();
    let present: Vec<&&String> = names.iter().filter(|name| old.schema().has_column_with_unqualified_name(name)).collect();
    let side = |frame: &DataFrame, alias: &str| {
        frame.clone().select(present.iter().map(|name| col(quoted(name))).collect::<Vec<_>>())?.alias(alias)
    };
    let same = |name: &&&String| -> Expr {
        let of = |side: &str| col(Column::new(Some(TableReference::bare(side)), name.as_str()));
        Expr::BinaryExpr(BinaryExpr::new(Box::new(of("o")), Operator::IsNotDistinctFrom, Box::new(of("n"))))
    };
    let on: Vec<Expr> = present.iter().map(same).collect();
    side(old, "o")?.join_on(side(new, "n")?, JoinType::LeftSemi, on)?.aggregate(vec![], vec![count(lit(1_i64)).alias("rows")])
}

/// Entities removed, updated, and kept because something newer stays.
fn entities(old: &DataFrame, new: &DataFrame, kept: &DataFrame, shape: &Shape) -> Result<DataFrame, DataFusionError> {
    let keys = || shape.keys.iter().map(|key| col(quoted(key))).collect::<Vec<_>>();
    let newest = |frame: &DataFrame, name: &str| {
        let t = max(col(quoted(&shape.time))).alias("t");
        frame.clone().aggregate(keys(), vec![t])?.with_column("side", lit(name))
    };
    let all = newest(old, "old")?.union(newest(new, "new")?)?.union(newest(kept, "kept")?)?;
    let of = |side: &str| when(col("side").eq(lit(side)), col("t")).end();
    let each = all.aggregate(
        keys(),
        vec![max(of("old")?).alias("old_t"), max(of("new")?).alias("new_t"), max(of("kept")?).alias("kept_t")],
    )?;
    let affected = col("old_t").is_not_null().or(col("new_t").is_not_null());
    let keeps = col("kept_t").is_not_null().and(
        col("kept_t")
            .gt_eq(col("new_t"))
            .or(col("new_t").is_null())
            .and(col("kept_t").gt_eq(col("old_t")).or(col("old_t").is_null())),
    );
    let removed = col("new_t").is_null().and(col("kept_t").is_null());
    let counted = |what: Expr, name: &str| -> Result<Expr, DataFusionError> {
        Ok(sum(when(what, lit(1_i64)).otherwise(lit(0_i64))?).alias(name))
    };
    each.filter(affected)?.aggregate(
        vec![],
        vec![
            counted(removed.clone(), "removed")?,
            counted(removed.clone().is_not_true().and(keeps.clone().is_not_true()), "updated")?,
            counted(removed.is_not_true().and(keeps), "kept_newer")?,
        ],
    )
}

/// The numbers of the only row.
async fn one(frame: DataFrame) -> Result<Vec<u64>> {
    let mut stream = stage::stream(frame).await?;
    let batch: Option<RecordBatch> = stage::next(&mut stream).await?;
    let number = |column: &ArrayRef| column.as_primitive::<Int64Type>().iter().next().flatten().map_or(0, i64::unsigned_abs);
    Ok(batch.map_or_else(Vec::new, |batch| batch.columns().iter().map(number).collect()))
}

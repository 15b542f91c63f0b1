//! What must hold before anything is visible. A failed guard changes nothing.

use crate::failure::{Failure, Result};
use crate::offline::rescue;
use crate::offline::stage::{self, Staged, Target};
use backfill_core::api::{NullKeys, RowsOutside, Severity};
use backfill_core::condition::Reason;
use backfill_core::contract::{Check, GuardResult, Guards, Notice, Verdict};
use deltalake::arrow::array::AsArray;
use deltalake::arrow::datatypes::Int64Type;
use deltalake::datafusion::error::DataFusionError;
use deltalake::datafusion::functions_aggregate::expr_fn::count;
use deltalake::datafusion::prelude::{SessionContext, lit};

/// What the guards saw.
#[derive(Debug, Default)]
pub struct Judged {
    /// For the report.
    pub results: Vec<GuardResult>,
    /// Warnings.
    pub notices: Vec<Notice>,
    /// The first guard that failed.
    pub failure: Option<Failure>,
}

impl Judged {
    fn add(&mut self, name: &str, verdict: Verdict, reason: Reason, message: String) {
        match verdict {
            Verdict::Failed if self.failure.is_none() => self.failure = Some(Failure::permanent(reason, message.clone())),
            Verdict::Warned => self.notices.push(Notice { reason, message: message.clone() }),
            Verdict::Failed | Verdict::Passed | Verdict::NotApplicable => {}
        }
        self.results.push(GuardResult { name: name.to_owned(), verdict, message });
    }
}

/// Judges staged rows. `removed` is how many rows they replace; `None` on the first load.
pub async fn judge(
    guards: &Guards,
    staged: &Staged,
    removed: Option<u64>,
    session: &SessionContext,
    target: &Target<'_>,
) -> Result<Judged> {
    let mut judged = Judged::default();
    null_keys(guards, staged, &mut judged);
    duplicates(staged, &mut judged);
    rows_outside(guards, staged, &mut judged);
    amount(guards, staged.rows, removed, &mut judged);
    for check in &guards.checks {
        let violations = violations(check, staged, session, target).await?;
        let verdict = match (violations, check.severity) {
            (0, _) => Verdict::Passed,
            (_, Severity::Warn) => Verdict::Warned,
            (_, Severity::Fail) => Verdict::Failed,
        };
        let message = format!("{violations} of {} rows violate the check \"{}\": {}", staged.rows, check.name, check.predicate);
        judged.add(&check.name, verdict, Reason::CheckFailed, message);
    }
    Ok(judged)
}

fn null_keys(guards: &Guards, staged: &Staged, judged: &mut Judged) {
    let verdict = match (staged.null_key, guards.null_keys) {
        (0, _) => Verdict::Passed,
        (_, NullKeys::Drop) => Verdict::Warned,
        (_, NullKeys::Fail) => Verdict::Failed,
    };
    let way_out = if verdict == Verdict::Failed { "; filter them in the SQL or set guards.nullKeys to Drop" } else { "" };
    let message = format!("{} rows lack a key or the event time{way_out}", staged.null_key);
    judged.add("nullKeys", verdict, Reason::NullKey, message);
}

fn duplicates(staged: &Staged, judged: &mut Judged) {
    let found = &staged.duplicates;
    if found.ambiguous > 0 {
        let message = format!(
            "{} rows have the keys and event time of another but other features, for instance {}; make the SQL return one of \
             them or set guards.duplicates to KeepLast",
            found.ambiguous,
            found.example.as_deref().unwrap_or("?")
        );
        judged.add("duplicates", Verdict::Failed, Reason::AmbiguousDuplicates, message);
    } else if found.dropped > 0 {
        let message = format!("{} rows repeat the keys and event time of another and were counted once", found.dropped);
        judged.add("duplicates", Verdict::Warned, Reason::DuplicatesCollapsed, message);
    } else {
        judged.add("duplicates", Verdict::Passed, Reason::DuplicatesCollapsed, "none".to_owned());
    }
}

fn rows_outside(guards: &Guards, staged: &Staged, judged: &mut Judged) {
    let verdict = match (staged.outside, guards.rows_outside) {
        (0, _) | (_, RowsOutside::Drop) => Verdict::Passed,
        (_, RowsOutside::Fail) => Verdict::Failed,
    };
    let way_out = match verdict {
        Verdict::Failed => "; bound the SQL by $start and $stop or set guards.rowsOutside to Drop",
        _ if staged.outside > 0 => " and were dropped",
        _ => "",
    };
    let message = format!("{} rows lie outside the interval or their window{way_out}", staged.outside);
    judged.add("rowsOutside", verdict, Reason::RowsOutsideInterval, message);
}

fn amount(guards: &Guards, written: u64, removed: Option<u64>, judged: &mut Judged) {
    let Some(removed) = removed else {
        let message = "the table is new: there is nothing to compare with".to_owned();
        judged.add("shrink", Verdict::NotApplicable, Reason::ShrinkGuard, message);
        return;
    };
    if written == 0 && removed > 0 && !guards.allow_empty {
        let message = format!(
            "the result has no rows where the table has {removed}; check the sources, or set guards.allowEmpty to remove them"
        );
        judged.add("empty", Verdict::Failed, Reason::EmptyResult, message);
        return;
    }
    let kept_percent_min = 100 - u64::from(guards.max_shrink_percent.min(100));
    let shrinks = u128::from(written) * 100 < u128::from(removed) * u128::from(kept_percent_min);
    // An empty result that is allowed is no shrink by accident.
    let verdict = if shrinks && written > 0 { Verdict::Failed } else { Verdict::Passed };
    let way_out = if verdict == Verdict::Failed { "; check the sources, or raise guards.maxShrinkPercent" } else { "" };
    let message =
        format!("{written} rows replace {removed}; a shrink by up to {} % is allowed{way_out}", guards.max_shrink_percent);
    judged.add("shrink", verdict, Reason::ShrinkGuard, message);
}

/// How many staged rows do not meet a check. A predicate that is null is not met.
async fn violations(check: &Check, staged: &Staged, session: &SessionContext, target: &Target<'_>) -> Result<u64> {
    if staged.adds.is_empty() {
        return Ok(0);
    }
    let rejected = |error: &DataFusionError| {
        Failure::permanent(
            Reason::CheckFailed,
            format!("the check \"{}\" cannot be evaluated: {}", check.name, error.strip_backtrace()),
        )
    };
    let rows = rescue::read_back(session, target, &staged.adds, target.shape.rows.clone()).await?;
    let counted = async {
        let predicate = rows.parse_sql_expr(&check.predicate)?;
        rows.filter(predicate.is_not_true())?.aggregate(vec![], vec![count(lit(1_i64))])
    };
    let counted = counted.await.map_err(|error: DataFusionError| rejected(&error))?;
    let mut stream = stage::stream(counted).await.map_err(|failure| Failure {
        reason: Reason::CheckFailed,
        message: format!("the check \"{}\": {}", check.name, failure.message),
        ..failure
    })?;
    let batch = stage::next(&mut stream).await?;
    Ok(batch.map_or(0, |batch| batch.column(0).as_primitive::<Int64Type>().value(0).unsigned_abs()))
}

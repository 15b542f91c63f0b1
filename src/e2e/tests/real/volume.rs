//! A reset and an interval of many rows through Spark with two executors, into Delta on S3 and Redis.

use crate::data;
use crate::spark::{import, template};
use crate::world::{PATIENCE_OF_SPARK, World, long_test};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::time::Instant;

/// How many rows are generated, of which 11 in 62 are left out: those of even users after 20 May. `BACKFILL_ROWS` is another multiple of
/// 124; many more need a worker that was built for release.
const ROWS: i64 = 248_000;

/// How many users have them.
fn users_of(rows: i64) -> i64 {
    (rows / 124 * 2).min(200_000)
}

/// Replaces something by what the source of many rows says.
async fn replace(world: &World, name: &str, mut spec: Value) -> Result<()> {
    spec["clusterTemplate"] = json!(template(world, 3).await?);
    spec["sources"] = json!([{"name": "raw", "parquet": {"uri": "s3://bucket/many/"}}]);
    let begun = Instant::now();
    world.backfill(name, spec).await?;
    let complete = world.ended_within(name, "Complete", PATIENCE_OF_SPARK * 2).await?;
    let status = complete.status.context("a status")?;
    eprintln!("{name}: {:.0} s; {}", begun.elapsed().as_secs_f64(), json!([status.offline, status.online]));
    Ok(())
}

/// What some users are served, whose newest rows are outside and inside the interval.
async fn online(world: &World, users: i64) -> Result<(Vec<i64>, Vec<i64>)> {
    let some = |first: i64| (first..=users).step_by(100).collect::<Vec<_>>();
    Ok((world.stores.online(&some(1)).await?, world.stores.online(&some(2)).await?))
}

#[test]
fn many_rows_go_through_two_executors_of_spark_and_those_outside_stay_as_they_are() -> Result<()> {
    long_test(async |world| {
        let rows = std::env::var("BACKFILL_ROWS").map_or(Ok(ROWS), |rows| rows.parse())?;
        let users = users_of(rows);
        import(&world).await?;
        world.stores.put_many(1, rows, users).await?;
        replace(&world, "all", json!({"reset": true, "startTime": "2024-05-01", "stopTime": "2024-06-01"})).await?;
        let before = world.stores.sums().await?;
        eprintln!("{before}");
        let count = |place: &str| before[place]["rows"].as_i64().unwrap_or(0);
        ensure!(count("outside") + count("inside") == rows / 62 * 51, "not all rows, once: {before}");
        ensure!(before["outside"]["versions"] == json!([1]) && before["inside"]["versions"] == json!([1]), "{before}");

        world.stores.put_many(2, rows, users).await?;
        replace(&world, "part", json!({"startTime": data::INTERVAL.0, "stopTime": data::INTERVAL.1})).await?;
        let after = world.stores.sums().await?;
        ensure!(after["outside"] == before["outside"], "the outside was touched: {before} became {after}");
        ensure!(after["inside"]["versions"] == json!([2]) && after["inside"]["mixed"] == 0, "{after}");
        for sum in ["rows", "users", "times"] {
            ensure!(after["inside"][sum] == before["inside"][sum], "the same rows of another version: {before} became {after}");
        }
        let (odd, even) = online(&world, users).await?;
        ensure!(odd.iter().all(|version| *version == 1), "users whose newest rows are outside: {odd:?}");
        ensure!(even.iter().all(|version| *version == 2), "users whose newest rows are inside: {even:?}");
        ensure!(world.stores.publishes().await? == 2, "one publish a backfill");
        Ok(())
    })
}

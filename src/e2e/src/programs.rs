//! The programs that users run in pods, as they were built beside this one, and their images.

use crate::node::{Image, image, image_with};
use crate::tools;
use anyhow::{Context, Result, ensure};
use std::path::PathBuf;

/// Where things are kept that take long to make.
pub fn cache() -> Result<PathBuf> {
    match std::env::var_os("BACKFILL_CACHE") {
        Some(folder) => Ok(folder.into()),
        None => Ok(PathBuf::from(std::env::var_os("HOME").context("HOME is not set")?).join(".cache/backfill-operator")),
    }
}

/// A program of this project lies beside the tests': `<target>/<profile>/<name>`, unless a variable of the environment
/// (`BACKFILL_OPERATOR` for `backfill-operator`) names another.
pub fn built(name: &str, package: &str) -> Result<PathBuf> {
    if let Ok(path) = std::env::var(name.to_uppercase().replace('-', "_")) {
        return Ok(path.into());
    }
    let this = std::env::current_exe()?;
    let mut folders = this.ancestors().skip(1).take(2).map(|folder| folder.join(name));
    let found = folders.find(|program| program.exists());
    let found = found.with_context(|| format!("{name} is not built; run: cargo build --package {package}"))?;
    ensure!(found.is_file(), "{} is no program", found.display());
    Ok(found)
}

/// The images of a cluster that runs backfills: operator, worker, and the stores Redis and versitygw (S3), all tagged `test`.
pub async fn images() -> Result<Vec<Image>> {
    let operator = [built("backfill-operator", "backfill-operator")?, built("kubectl-features", "backfill-cli")?];
    let worker = [built("backfill-worker", "backfill-worker")?];
    let redis = ["/usr/bin/redis-server", "/usr/bin/redis-cli"].map(PathBuf::from);
    ensure!(redis.iter().all(|program| program.exists()), "Redis is missing: apt-get install redis-server");
    Ok(vec![
        image("backfill-operator", "deploy/images/operator/Containerfile", &operator).await?,
        image("backfill-worker", "deploy/images/worker/Containerfile", &worker).await?,
        image("redis", "src/e2e/images/redis/Containerfile", &redis).await?,
        image("versitygw", "src/e2e/images/versitygw/Containerfile", &[tools::path("versitygw")?]).await?,
    ])
}

/// The image of workers beside Spark, tagged `test`.
pub async fn spark_image() -> Result<Image> {
    for name in ["BACKFILL_SPARK_PYTHON", "BACKFILL_SPARK_JARS"] {
        ensure!(std::env::var_os(name).is_some(), "{name} is not set; run the tests by: make test");
    }
    let worker = [built("backfill-worker", "backfill-worker")?];
    let folder = "deploy/images/worker-spark";
    let gathered =
        [&format!("{folder}/gather"), "src/worker/spark/stage.py", "src/worker/spark/daemon.py", "src/worker/spark/pom.xml"];
    image_with("backfill-worker-spark", &format!("{folder}/Containerfile"), &worker, &gathered).await
}

//! Which settings of Spark a template may give: those on which rows, secrets and the network depend are ours.

use std::collections::BTreeMap;

/// Below this neither a driver nor an executor can work beside the worker.
pub const MEMORY_BYTES_MIN: u64 = 2 << 30;

/// What a setting that is refused would change.
const OURS: [(&str, &[&str]); 4] = [
    (
        "it decides which values are staged",
        &[
            "spark.sql.ansi.",
            "spark.sql.session.timeZone",
            "spark.sql.timestampType",
            "spark.sql.parquet.",
            "spark.sql.legacy.",
            "spark.sql.parser.",
            "spark.sql.variable.",
            "spark.sql.caseSensitive",
            "spark.sql.files.ignore",
            "spark.sql.files.maxRecordsPerFile",
            "spark.sql.mapKeyDedupPolicy",
            "spark.sql.storeAssignmentPolicy",
            "spark.sql.decimalOperations.",
            "spark.sql.sources.",
            "spark.databricks.",
            "spark.hadoop.parquet.",
            "spark.speculation",
        ],
    ),
    (
        "it decides what a transformation can reach",
        &[
            "spark.sql.extensions",
            "spark.sql.catalog",
            "spark.sql.warehouse.",
            "spark.sql.hive.",
            "spark.sql.runSQLOnFiles",
            "spark.sql.artifact.",
            "spark.plugins",
            "spark.jars",
            "spark.files",
            "spark.archives",
            "spark.submit.",
            "spark.pyspark.",
            "spark.python.",
            "spark.r.",
            "spark.extraListeners",
            "spark.sql.queryExecutionListeners",
            "spark.sql.streaming.",
            "spark.hadoop.",
            "spark.serializer",
            "spark.closure.",
            "spark.kryo.",
            "spark.buffer.write.",
            "spark.executorEnv.",
            "spark.driver.extra",
            "spark.driver.defaultJavaOptions",
            "spark.driver.userClassPathFirst",
            "spark.executor.extra",
            "spark.executor.defaultJavaOptions",
            "spark.executor.userClassPathFirst",
            "spark.executor.pyspark.",
        ],
    ),
    (
        "it decides who can reach Spark",
        &[
            "spark.authenticate",
            "spark.network.crypto.",
            "spark.io.encryption.",
            "spark.ssl.",
            "spark.acls.",
            "spark.admin.",
            "spark.modify.",
            "spark.ui.",
            "spark.eventLog.",
            "spark.history.",
            "spark.redaction.",
            "spark.master",
            "spark.deploy.",
            "spark.worker.",
            "spark.connect.",
            "spark.api.",
            "spark.metrics.",
        ],
    ),
    (
        "it follows from the template's nodes, cores, memory and scratch",
        &[
            "spark.app.",
            "spark.cores.max",
            "spark.driver.cores",
            "spark.driver.memory",
            "spark.driver.host",
            "spark.driver.port",
            "spark.driver.bindAddress",
            "spark.driver.blockManager.",
            "spark.blockManager.",
            "spark.port.",
            "spark.executor.cores",
            "spark.executor.instances",
            "spark.executor.memory",
            "spark.dynamicAllocation.",
            "spark.shuffle.service.",
            "spark.shuffle.manager",
            "spark.shuffle.sort.io.",
            "spark.local.",
            "spark.kubernetes.",
            "spark.yarn.",
        ],
    ),
];

/// Refuses settings that are not the template's to give, by their name and why.
pub fn check(conf: &BTreeMap<String, String>) -> Result<(), String> {
    for (name, value) in conf {
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
        if !name.starts_with("spark.") || !plain {
            return Err(format!("spec.sparkConf: \"{name}\" is no setting of Spark; names begin with \"spark.\""));
        }
        if value.chars().any(char::is_control) {
            return Err(format!("spec.sparkConf: the value of \"{name}\" holds a control character; leave it out"));
        }
        // Spark knows some settings in several spellings, none of which differ by case alone; nothing is left to that.
        let lower = name.to_ascii_lowercase();
        let of = |names: &&[&str]| names.iter().any(|ours| lower.starts_with(&ours.to_ascii_lowercase()));
        if let Some((why, _)) = OURS.iter().find(|(_, names)| of(names)) {
            return Err(format!("spec.sparkConf: \"{name}\" cannot be set: {why}; leave it out"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(name: &str, value: &str) -> Result<(), String> {
        check(&[(name.to_owned(), value.to_owned())].into())
    }

    #[test]
    fn settings_of_speed_are_the_templates() {
        for name in [
            "spark.sql.shuffle.partitions",
            "spark.sql.adaptive.enabled",
            "spark.sql.autoBroadcastJoinThreshold",
            "spark.memory.fraction",
            "spark.network.timeout",
            "spark.task.maxFailures",
            "spark.default.parallelism",
            "spark.sql.files.maxPartitionBytes",
        ] {
            assert_eq!(judge(name, "1"), Ok(()), "{name}");
        }
    }

    #[test]
    fn settings_of_rows_reach_network_and_size_are_refused_by_name() {
        for name in OURS.iter().flat_map(|(_, names)| names.iter()) {
            let message = judge(&format!("{name}x"), "1").expect_err(name);
            assert!(message.contains(name) && message.contains("leave it out"), "{message}");
        }
        for name in
            ["SPARK.sql.ansi.enabled", "spark.SQL.ANSI.enabled", "spark.authenticate.secret", "spark.hadoop.fs.s3a.secret.key"]
        {
            assert!(judge(name, "1").is_err(), "{name}");
        }
    }

    #[test]
    fn what_is_no_setting_is_refused() {
        for (name, value) in
            [("log4j.x", "1"), ("spark.a b", "1"), ("spark.a\nspark.b", "1"), ("spark.a", "1\nspark.b=2"), ("", "")]
        {
            assert!(judge(name, value).is_err(), "{name:?}");
        }
    }
}

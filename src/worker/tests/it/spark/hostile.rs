//! SQL that would do more than read the sources runs in neither engine.

use super::{APP, alone, installed};
use crate::support::{World, object, three};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Each with `MARK` where a file would appear that nobody may write, and `SECRET` where one lies that nobody may read.
const HOSTILE: [&str; 60] = [
    "SELECT driver, at, reflect('java.lang.System', 'getProperty', 'user.home') AS trips FROM rides",
    "SELECT driver, at, java_method('java.lang.System', 'getenv', 'PATH') AS trips FROM rides",
    "SELECT driver, at, try_reflect('java.lang.System', 'exit', 1) AS trips FROM rides",
    "SELECT driver, at, system.builtin.reflect('java.lang.System', 'getProperty', 'user.home') AS trips FROM rides",
    "SELECT driver, at, builtin.java_method('java.lang.System', 'exit', 1) AS trips FROM rides",
    "SELECT driver, at, ReFlEcT('java.lang.Runtime', 'getRuntime') AS trips FROM rides",
    "SELECT driver, at, `reflect`('java.lang.Runtime', 'getRuntime') AS trips FROM rides",
    "SELECT TRANSFORM(driver, at, trips) USING 'touch MARK' AS (driver, at, trips) FROM rides",
    "SELECT MAP(driver, at, trips) USING 'touch MARK' AS (driver, at, trips) FROM rides",
    "FROM rides MAP driver, at, trips USING 'touch MARK' AS driver, at, trips",
    "FROM rides REDUCE driver, at, trips USING 'touch MARK' AS driver, at, trips",
    "ADD JAR 'SECRET'",
    "ADD FILE 'SECRET'",
    "ADD ARCHIVE 'SECRET'",
    "LIST JARS",
    "SET spark.sql.ansi.enabled = false",
    "SET -v",
    "RESET",
    "SET TIME ZONE 'Europe/Paris'",
    "SELECT * FROM parquet.`SECRET`",
    "SELECT * FROM csv.`SECRET`",
    "SELECT * FROM text.`file://SECRET`",
    "SELECT * FROM json.`SECRET`",
    "SELECT * FROM delta.`SECRET`",
    "SELECT * FROM binaryFile.`SECRET`",
    "SELECT * FROM 'SECRET'",
    "SELECT * FROM read_files('SECRET')",
    "SELECT * FROM read_csv('SECRET')",
    "SELECT * FROM table_changes('rides', 0)",
    "SELECT * FROM IDENTIFIER('parquet.`SECRET`')",
    "SELECT driver, at, IDENTIFIER('ref' || 'lect')('java.lang.System', 'exit', 1) AS trips FROM rides",
    "SELECT * FROM range(10)",
    "SELECT * FROM spark_catalog.default.rides",
    "SELECT * FROM information_schema.tables",
    "SELECT * FROM STREAM rides",
    "SELECT driver, at, trips FROM rides VERSION AS OF 0",
    "CREATE TABLE stolen USING csv LOCATION 'MARK' AS SELECT * FROM rides",
    "CREATE OR REPLACE TEMPORARY VIEW rides AS SELECT 1",
    "CREATE FUNCTION f AS 'f' USING JAR 'SECRET'",
    "CREATE TEMPORARY FUNCTION f(x INT) RETURNS INT RETURN x",
    "DROP VIEW rides",
    "DROP TABLE rides",
    "ALTER VIEW rides AS SELECT 1",
    "INSERT INTO rides SELECT * FROM rides",
    "INSERT OVERWRITE DIRECTORY 'MARK' USING csv SELECT * FROM rides",
    "INSERT OVERWRITE LOCAL DIRECTORY 'MARK' SELECT * FROM rides",
    "COPY rides TO 'MARK'",
    "DELETE FROM rides",
    "UPDATE rides SET trips = 0",
    "MERGE INTO rides USING rides AS other ON true WHEN MATCHED THEN DELETE",
    "CACHE TABLE stolen AS SELECT * FROM rides",
    "EXPLAIN SELECT * FROM rides",
    "SHOW TABLES",
    "DESCRIBE rides",
    "USE default",
    "CALL system.vacuum('rides')",
    "EXECUTE IMMEDIATE 'SELECT 1'",
    "BEGIN SELECT * FROM rides; END",
    "DECLARE VARIABLE x INT DEFAULT 1",
    "SELECT driver, at, trips FROM rides; DROP VIEW rides",
];

/// The strings with paths of a world.
fn hostile(world: &World) -> Vec<String> {
    let (mark, secret) = (world.path("mark"), world.path("secret"));
    world.file("secret", b"secret\n");
    HOSTILE.map(|sql| sql.replace("MARK", &mark.to_string_lossy()).replace("SECRET", &secret.to_string_lossy())).to_vec()
}

#[test]
fn hostile_sql_is_refused_whatever_the_engine() {
    for template in [None, Some(alone())] {
        let mut world = World::new();
        world.source(&three());
        let mut backfills = Vec::new();
        let names: Vec<String> = (0..HOSTILE.len()).map(|number| format!("hostile-{number}")).collect();
        for (name, sql) in names.iter().zip(hostile(&world)) {
            let mut spec = world.feature_set["spec"].clone();
            spec["transformation"]["sql"] = sql.into();
            world.others.push(object("FeatureSet", name, spec));
            let backfill = json!({ "featureSet": name, "startTime": "2024-04-01", "stopTime": "2024-05-01" });
            backfills.push((name.as_str(), backfill));
        }
        if let Some(template) = template {
            world.template = template;
        }
        let ended = world.backfills(&backfills);
        for (ended, sql) in ended.iter().zip(HOSTILE) {
            let conditions = ended.json["conditions"].as_array().expect("conditions");
            let reasons: Vec<_> = conditions.iter().filter_map(|one| one["reason"].as_str()).collect();
            let refused = ["TransformRejected", "TransformFailed"].iter().any(|one| reasons.contains(one));
            assert!(refused, "{sql}: {conditions:#?}");
        }
        assert!(!world.path("mark").exists(), "something was written");
        assert!(!world.path("offline").exists() || names.iter().all(|name| !world.path("offline").join(name).exists()));
    }
}

/// The program that runs Spark, with nobody before it who judges.
struct App {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    _folder: tempfile::TempDir,
}

impl App {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().display().to_string();
        let jars = installed("BACKFILL_SPARK_JARS").display().to_string();
        let settings = [
            "spark.master=local[1]",
            "spark.driver.bindAddress=127.0.0.1",
            "spark.driver.host=127.0.0.1",
            "spark.ui.enabled=false",
            "spark.sql.ansi.enabled=true",
            "spark.sql.ansi.doubleQuotedIdentifiers=true",
            "spark.sql.runSQLOnFiles=false",
            "spark.sql.extensions=io.delta.sql.DeltaSparkSessionExtension",
            "spark.sql.catalog.spark_catalog=org.apache.spark.sql.delta.catalog.DeltaCatalog",
            &format!("spark.driver.extraClassPath={jars}/*"),
            &format!("spark.sql.warehouse.dir={path}/warehouse"),
        ];
        let properties = folder.path().join("spark.properties");
        std::fs::write(&properties, settings.join("\n")).expect("a file");
        let mut command = Command::new(installed("BACKFILL_SPARK_PYTHON"));
        command.arg(APP).env("BACKFILL_SPARK_PROPERTIES", properties).current_dir(folder.path());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("Python runs");
        let input = child.stdin.take().expect("a pipe");
        let output = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let mut app = Self { child, input, output, _folder: folder };
        assert_eq!(app.hear(), json!({ "ready": {} }));
        app
    }

    fn say(&mut self, message: &Value) {
        writeln!(self.input, "{message}").expect("it listens");
    }

    fn hear(&mut self) -> Value {
        let line = self.output.next().expect("it answers").expect("UTF-8");
        serde_json::from_str(&line).expect("a line is JSON")
    }

    /// What it answers to a SELECT over the rides.
    fn analyse(&mut self, world: &World, sql: &str) -> Value {
        let file = format!("file://{}", world.path("data/rides.parquet").display());
        let source = json!({ "name": "rides", "format": "parquet", "files": [file] });
        self.say(&json!({ "analyse": { "sources": [source], "sql": [sql], "window": {} } }));
        self.hear()
    }
}

impl Drop for App {
    fn drop(&mut self) {
        // A test that failed has said why.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The worker judges before Spark sees anything; were it wrong, Spark itself would still refuse.
#[test]
fn the_program_that_runs_spark_refuses_hostile_sql_itself() {
    let world = World::new();
    world.source(&three());
    let mut app = App::start();
    for (sql, shown) in hostile(&world).iter().zip(HOSTILE) {
        let answer = app.analyse(&world, sql);
        assert_eq!(answer["failed"]["kind"], "transform", "{shown}: {answer}");
    }
    assert!(!world.path("mark").exists(), "something was written");
    // It goes on, and nothing that was tried has changed what a SELECT means.
    let answer = app.analyse(&world, "SELECT driver, at, trips FROM rides");
    let names: Vec<_> = answer["columns"].as_array().expect("columns").iter().map(|column| column["name"].clone()).collect();
    assert_eq!(names, ["driver", "at", "trips"]);
}

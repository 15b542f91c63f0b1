//! What both engines are held to: feature sets over the same files, each with what is peculiar to it.

use crate::support::{World, at, object, parquet_bytes, rides_batch};
use crate::types::every_type;
use deltalake::arrow::array::*;
use serde_json::{Value, json};
use std::sync::Arc;

/// One feature set, and a backfill of May 2024.
pub struct Case {
    pub name: String,
    pub set: Value,
    pub backfill: Value,
    /// How the engines differ, as docs/engines.md says; empty when they must agree.
    pub differs: Option<Difference>,
}

/// What each engine answers: `Succeeded`, or the reason of its failure.
pub struct Difference {
    pub data_fusion: &'static str,
    pub spark: &'static str,
}

/// A case of a SELECT over the rides.
fn case(name: &str, sql: &str) -> Case {
    let set = json!({
        "entities": [{ "name": "driver", "type": "int64" }],
        "timestampColumn": "at",
        "features": [{ "name": "trips", "type": "int64" }],
        "sources": [{ "name": "rides", "parquet": { "uri": "file:///store/data/rides.parquet" } }],
        "transformation": { "sql": sql },
        "offline": { "partitionBy": "None" },
    });
    let backfill = json!({ "featureSet": name, "startTime": "2024-05-01", "stopTime": "2024-06-01", "stores": ["Offline"] });
    Case { name: name.to_owned(), set, backfill, differs: None }
}

impl Case {
    fn set(mut self, field: &str, value: Value) -> Self {
        self.set[field] = value;
        self
    }

    fn features(self, features: &[(&str, &str)]) -> Self {
        let features = features.iter().map(|(name, kind)| json!({ "name": name, "type": kind })).collect::<Vec<_>>();
        self.set("features", features.into())
    }

    fn source(self, source: Value) -> Self {
        self.set("sources", json!([source]))
    }

    fn guards(mut self, guards: Value) -> Self {
        self.backfill["guards"] = guards;
        self
    }

    fn differs(self, data_fusion: &'static str, spark: &'static str) -> Self {
        Self { differs: Some(Difference { data_fusion, spark }), ..self }
    }

    pub fn object(&self) -> Value {
        object("FeatureSet", &self.name, self.set.clone())
    }
}

/// Writes what the cases read.
pub fn write_sources(world: &World) {
    let rides: Vec<_> = (0..400_i64)
        .map(|number| {
            let time = at("2024-04-30") + number * 7_123_456_789;
            (Some(number % 13), Some(time), (number % 11 > 0).then_some(number * 37 % 1000))
        })
        .collect();
    world.parquet("data/rides.parquet", &rides_batch(&rides));
    let (early, late) = rides.split_at(150);
    let bonus: ArrayRef = Arc::new(Int64Array::from_iter_values(0..late.len() as i64));
    let mut wider = rides_batch(late).columns().to_vec();
    wider.insert(0, bonus);
    let names = ["bonus", "driver", "at", "trips"].into_iter().zip(wider);
    world.parquet("data/folder/a.parquet", &rides_batch(early));
    world.parquet("data/folder/deeper/b.parquet", &RecordBatch::try_from_iter(names).expect("columns"));
    write_types(world);
    write_times(world);
    write_text(world);
}

fn write_types(world: &World) {
    let columns = every_type();
    let drivers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..4));
    let times: ArrayRef = Arc::new(times(&["2024-05-01", "2024-05-10", "2024-05-20", "2024-05-31"]));
    let columns =
        [("driver", drivers), ("at", times)].into_iter().chain(columns.into_iter().map(|(name, _, values)| (name, values)));
    let columns = columns.map(|(name, values)| (name, values, true));
    world.file("data/types.parquet", &parquet_bytes(&RecordBatch::try_from_iter_with_nullable(columns).expect("columns")));
}

fn times(texts: &[&str]) -> TimestampMicrosecondArray {
    texts.iter().map(|text| Some(at(text))).collect::<TimestampMicrosecondArray>().with_timezone("UTC")
}

/// The same instants in all the ways in which files hold them, an hour apart over a switch to summer time and over midnights.
fn write_times(world: &World) {
    let instants: Vec<i64> = (0..96).map(|hour| at("2024-05-29 20:30:00.123456") + hour * 3_600_000_000).collect();
    let micros = || TimestampMicrosecondArray::from_iter_values(instants.iter().copied());
    let drivers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..instants.len() as i64));
    let nanos = TimestampNanosecondArray::from_iter_values(instants.iter().map(|t| t * 1000));
    let millis = TimestampMillisecondArray::from_iter_values(instants.iter().map(|t| t / 1000));
    let text = |format: &str| -> ArrayRef {
        let texts =
            instants.iter().map(|t| chrono::DateTime::from_timestamp_micros(*t).expect("a time").format(format).to_string());
        Arc::new(StringArray::from_iter_values(texts))
    };
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("driver", drivers),
        ("utc", Arc::new(micros().with_timezone("UTC"))),
        ("naive", Arc::new(micros())),
        ("paris", Arc::new(micros().with_timezone("Europe/Paris"))),
        ("offset", Arc::new(micros().with_timezone("-05:00"))),
        ("nanos", Arc::new(nanos.with_timezone("UTC"))),
        ("millis", Arc::new(millis.with_timezone("UTC"))),
        ("naive_millis", Arc::new(TimestampMillisecondArray::from_iter_values(instants.iter().map(|t| t / 1000)))),
        ("text", text("%Y-%m-%d %H:%M:%S%.6f")),
        ("zulu", text("%Y-%m-%dT%H:%M:%S%.6fZ")),
        ("day", Arc::new(Date32Array::from_iter_values(instants.iter().map(|t| t.div_euclid(86_400_000_000) as i32)))),
        ("micros", Arc::new(Int64Array::from_iter_values(instants.iter().copied()))),
    ];
    world.parquet("data/times.parquet", &RecordBatch::try_from_iter(columns).expect("columns"));
}

fn write_text(world: &World) {
    let csv = "driver,at,trips,note\n1,2024-05-01 00:00:00,10,plain\n2,2024-05-02 12:30:00,,\"with, comma\"\n\
               3,2024-05-31 23:59:59,-7,\"a \"\"quote\"\"\"\n4,2024-06-01 00:00:00,5,\n5,2024-05-03 00:00:00,6,ünïcode 🚲\n";
    world.file("data/rides.csv", csv.as_bytes());
    let json = concat!(
        r#"{"driver": 1, "at": "2024-05-01T00:00:00Z", "trips": 10, "tags": ["a", "b"], "price": 1.5}"#,
        "\n",
        r#"{"driver": 2, "at": "2024-05-02T12:30:00.5Z", "tags": [], "price": 2}"#,
        "\n",
        r#"{"trips": -7, "driver": 3, "at": "2024-05-31T23:59:59.999999Z", "tags": null}"#,
        "\n",
        r#"{"driver": 4, "at": "2024-06-01T00:00:00Z", "trips": 5, "note": "a \"quote\" \u00fc"}"#,
        "\n",
    );
    world.file("data/rides.jsonl", json.as_bytes());
}

/// The cases by what they are about. Within a group, later ones may read the tables of earlier ones.
pub fn groups() -> [Vec<Case>; 7] {
    [of_types(), of_times(), of_windows(), of_layouts(), of_sources(), of_guards(), of_sql()]
}

pub fn all() -> Vec<Case> {
    groups().into_iter().flatten().collect()
}

fn of_types() -> Vec<Case> {
    let one = |(name, kind, _): (&str, &str, ArrayRef)| {
        let sql = format!("SELECT driver, at, {name} FROM types");
        let source = json!({ "name": "types", "parquet": { "uri": "file:///store/data/types.parquet" } });
        case(&format!("type-{}", name.replace('_', "-")), &sql).features(&[(name, kind)]).source(source)
    };
    every_type().into_iter().map(one).collect()
}

fn of_times() -> Vec<Case> {
    let source = || json!({ "name": "times", "parquet": { "uri": "file:///store/data/times.parquet" } });
    let one = |name: &str, expression: &str| {
        let sql = format!("SELECT driver, {expression} AS at, micros AS trips FROM times");
        case(&format!("time-{name}"), &sql).source(source())
    };
    let parts = |of: &str| json!({ "sql": format!("SELECT driver, utc AS at, extract(hour FROM {of}) + 100 * extract(day FROM naive) AS trips FROM times") });
    vec![
        one("utc", "utc"),
        one("naive", "naive"),
        one("paris", "paris"),
        one("offset", "\"offset\""),
        one("nanos", "nanos"),
        one("millis", "millis"),
        one("naive-millis", "naive_millis"),
        one("text", "CAST(text AS TIMESTAMP)"),
        one("zulu", "CAST(zulu AS TIMESTAMP)"),
        one("day", "CAST(day AS TIMESTAMP)"),
        one("trunc-hour", "date_trunc('hour', utc)"),
        one("trunc-day", "date_trunc('day', utc)"),
        one("trunc-day-of-zone", "date_trunc('day', paris)").differs("Succeeded", "Succeeded"),
        one("interval", "utc - INTERVAL '90' MINUTE"),
        one("parts", "utc").set("transformation", parts("utc")),
        one("parts-of-zone", "utc").set("transformation", parts("paris")).differs("Succeeded", "Succeeded"),
        case(
            "time-of-literal",
            "SELECT driver, utc AS at, micros AS trips FROM times WHERE utc < TIMESTAMP '2024-05-30 12:00:00Z'",
        )
        .source(source()),
    ]
}

fn of_windows() -> Vec<Case> {
    let daily = "SELECT driver, date_trunc('day', at) AS at, sum(trips) AS trips FROM rides \
                 WHERE at >= $window_start AND at < $window_stop GROUP BY driver, date_trunc('day', at)";
    let stopped = "SELECT driver, CAST($window_stop AS TIMESTAMP) AS at, count(*) AS trips FROM rides \
                   WHERE at >= $window_start AND at < $window_stop GROUP BY driver";
    vec![
        case("window-daily", daily).set("windows", json!({ "every": "1d" })),
        case("window-weekly", daily).set("windows", json!({ "every": "7d" })),
        case("window-cron", daily).set("windows", json!({ "cron": "0 0 * * 1" })),
        case("window-stop", stopped).set("windows", json!({ "every": "1d", "stamp": "Stop" })),
        case("window-stop-wrong", stopped).set("windows", json!({ "every": "1d" })),
        case("window-whole", "SELECT * FROM rides").set("windows", json!({ "every": "1d" })),
        case("bounds", "SELECT driver, at, trips FROM rides WHERE at >= $start AND at < $stop"),
        case(
            "bounds-in-a-text",
            "SELECT driver, at, CASE WHEN '$start' = 'x' THEN 1 ELSE trips END AS trips FROM rides WHERE at < $stop",
        ),
    ]
}

fn of_layouts() -> Vec<Case> {
    let one = |name: &str, offline: Value| case(&format!("layout-{name}"), "SELECT * FROM rides").set("offline", offline);
    vec![
        one("none", json!({ "partitionBy": "None" })),
        one("day", json!({ "partitionBy": "Day" })),
        one("month", json!({ "partitionBy": "Month" })),
    ]
}

fn of_sources() -> Vec<Case> {
    let read = |name: &str, source: Value, sql: &str| {
        let mut source = source;
        source["name"] = "rides".into();
        case(&format!("source-{name}"), sql).source(source)
    };
    let folder = json!({ "parquet": { "uri": "file:///store/data/folder/" } });
    let csv = || json!({ "csv": { "uri": "file:///store/data/rides.csv" } });
    let lines = || json!({ "json": { "uri": "file:///store/data/rides.jsonl" } });
    vec![
        read("folder", folder, "SELECT driver, at, trips + coalesce(bonus, 0) AS trips FROM rides"),
        read("csv", csv(), "SELECT driver, at, trips FROM rides"),
        read("csv-text", csv(), "SELECT driver, at, note FROM rides").features(&[("note", "string")]),
        read("json", lines(), "SELECT driver, CAST(at AS TIMESTAMP) AS at, trips FROM rides"),
        read("json-nested", lines(), "SELECT driver, CAST(at AS TIMESTAMP) AS at, tags, price, note FROM rides").features(&[
            ("tags", "list<string>"),
            ("price", "float64"),
            ("note", "string"),
        ]),
        read("delta", json!({ "delta": { "uri": "file:///store/offline/layout-day" } }), "SELECT driver, at, trips FROM rides"),
        read("set", json!({ "featureSet": { "name": "layout-month" } }), "SELECT driver, at, trips FROM rides"),
        case("source-two", "SELECT a.driver, a.at, b.micros AS trips FROM rides a JOIN more b ON a.driver = b.driver").set(
            "sources",
            json!([
                { "name": "rides", "parquet": { "uri": "file:///store/data/rides.parquet" } },
                { "name": "more", "parquet": { "uri": "file:///store/data/times.parquet" } },
            ]),
        ),
        read("none", json!({ "parquet": { "uri": "file:///store/data/nothing.parquet" } }), "SELECT * FROM rides"),
    ]
}

fn of_guards() -> Vec<Case> {
    let nulls = "SELECT CASE WHEN trips > 500 THEN NULL ELSE driver END AS driver, at, trips FROM rides";
    let twice = "SELECT driver, at, trips FROM rides UNION ALL SELECT driver, at, trips FROM rides";
    let other = "SELECT driver, at, trips FROM rides UNION ALL SELECT driver, at, trips + 1 FROM rides";
    let revised = "SELECT driver, at, trips, 1 AS revision FROM rides UNION ALL SELECT driver, at, trips + 1, 2 FROM rides";
    let keep = || json!({ "duplicates": { "policy": "KeepLast", "by": "revision" } });
    vec![
        case("guard-null-keys", nulls),
        case("guard-null-keys-dropped", nulls).guards(json!({ "nullKeys": "Drop" })),
        case("guard-duplicates", twice),
        case("guard-ambiguous", other),
        case("guard-keep-last", revised).guards(keep()),
        case("guard-keep-last-by-day", revised).guards(keep()).set("offline", json!({ "partitionBy": "Day" })),
        case("guard-nothing", "SELECT driver, at, trips FROM rides WHERE trips > 100000"),
        case("guard-nothing-allowed", "SELECT driver, at, trips FROM rides WHERE trips > 100000")
            .guards(json!({ "allowEmpty": true })),
        case("guard-outside", "SELECT driver, at + INTERVAL '40' DAY AS at, trips FROM rides"),
        case("guard-check", "SELECT * FROM rides")
            .guards(json!({ "checks": [{ "name": "few", "predicate": "trips < 500 OR trips IS NULL" }] })),
        case("guard-overflow", "SELECT driver, at, trips * 10000000 AS trips FROM rides").features(&[("trips", "int32")]),
        case("guard-fits", "SELECT driver, at, trips FROM rides").features(&[("trips", "int32")]),
        case("guard-wrong-type", "SELECT driver, at, 'x' AS trips FROM rides"),
        case("guard-missing", "SELECT driver, at FROM rides"),
        case("guard-extra", "SELECT driver, at, trips, 1 AS more FROM rides"),
        case("guard-no-table", "SELECT * FROM elsewhere"),
        case("guard-no-column", "SELECT driver, at, nothing AS trips FROM rides"),
    ]
}

fn of_sql() -> Vec<Case> {
    let sql = |name: &str, expression: &str| {
        case(&format!("sql-{name}"), &format!("SELECT driver, at, {expression} AS trips FROM rides"))
    };
    let text = |name: &str, expression: &str| {
        let sql = format!("SELECT driver, at, {expression} AS words FROM rides");
        case(&format!("sql-{name}"), &sql).features(&[("words", "string")])
    };
    let float = |name: &str, expression: &str| {
        let sql = format!("SELECT driver, at, {expression} AS share FROM rides");
        case(&format!("sql-{name}"), &sql).features(&[("share", "float64")])
    };
    vec![
        sql("case", "CASE WHEN trips IS NULL THEN -1 WHEN trips > 500 THEN 1 ELSE 0 END"),
        sql("coalesce", "coalesce(trips, driver, 0)"),
        sql("window", "row_number() OVER (PARTITION BY driver ORDER BY at)"),
        sql("running", "sum(trips) OVER (PARTITION BY driver ORDER BY at ROWS BETWEEN 2 PRECEDING AND CURRENT ROW)"),
        sql("lag", "lag(trips) OVER (PARTITION BY driver ORDER BY at)"),
        sql("modulo", "trips % 7"),
        sql("power", "CAST(power(driver, 2) AS BIGINT)"),
        sql("length", "CAST(character_length('ünï🚲') AS BIGINT)"),
        sql("cast-text", "CAST(concat('1', CAST(driver AS VARCHAR(10))) AS BIGINT)"),
        float("double", "CAST(trips AS DOUBLE) / 3"),
        float("round", "round(CAST(trips AS DOUBLE) / 7, 2)"),
        float("float-aggregate", "avg(trips) OVER (PARTITION BY driver)"),
        text("quote", "'it''s \"quoted\"'"),
        text("backslash", r"'a\n\t\\b'"),
        text("unicode", "'ünïcode 🚲'"),
        text("concat", "concat(CAST(driver AS STRING), '-', upper('abc'))"),
        text("bars", "'a' || 'b'"),
        text("substring", "substring('abcdef', 2, 3)"),
        text("like", "CASE WHEN concat('x', CAST(driver AS STRING)) LIKE 'x1%' THEN 'one' ELSE 'other' END"),
        text("trim", "trim('  x ')"),
        case(
            "sql-cte",
            "WITH top AS (SELECT driver, max(trips) AS most FROM rides GROUP BY driver) \
                         SELECT r.driver, r.at, t.most AS trips FROM rides r JOIN top t ON r.driver = t.driver",
        ),
        case("sql-subquery", "SELECT driver, at, trips FROM rides WHERE driver IN (SELECT driver FROM rides WHERE trips > 900)"),
        case("sql-scalar", "SELECT driver, at, (SELECT max(trips) FROM rides) AS trips FROM rides"),
        case("sql-distinct", "SELECT DISTINCT driver, date_trunc('day', at) AS at, CAST(1 AS BIGINT) AS trips FROM rides"),
        case("sql-having", "SELECT driver, max(at) AS at, count(*) AS trips FROM rides GROUP BY driver HAVING count(*) > 30"),
        case(
            "sql-union",
            "SELECT driver, at, trips FROM rides WHERE driver < 5 UNION ALL SELECT driver, at, -trips FROM rides WHERE driver >= 5",
        ),
        case("sql-quoted-names", "SELECT \"driver\", \"at\", \"trips\" AS \"trips\" FROM \"rides\" AS \"R\""),
        case("sql-comment", "SELECT driver, at, /* $nothing */ trips -- 'one\nFROM rides"),
        case("sql-divided", "SELECT driver, at, trips / 2 AS trips FROM rides").differs("Succeeded", "SchemaMismatch"),
        case("sql-overflow", "SELECT driver, at, trips * 9223372036854775807 AS trips FROM rides")
            .differs("Succeeded", "TransformFailed"),
        case("sql-by-zero", "SELECT driver, at, trips % 0 AS trips FROM rides"),
        case("sql-bad-cast", "SELECT driver, at, CAST('x' AS BIGINT) AS trips FROM rides"),
        case("sql-syntax", "SELECT driver, at, FROM rides WHERE"),
    ]
}

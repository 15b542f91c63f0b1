use super::*;

const SOURCES: [&str; 2] = ["clicks", "Users"];

fn message(sql: &str) -> String {
    check(sql, &SOURCES, false).expect_err(sql).to_string()
}

#[test]
fn a_select_over_the_sources_is_accepted() {
    for sql in [
        "SELECT * FROM clicks",
        "select c.user_id, count(*) from CLICKS c join users u on c.user_id = u.id where t >= $start and t < $stop group by 1",
        "SELECT * FROM \"Users\"",
        "WITH daily AS (SELECT user_id, date_trunc('day', t) AS d FROM clicks) SELECT * FROM Daily",
        "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 10) SELECT * FROM n",
        "SELECT * FROM clicks UNION ALL SELECT * FROM users",
        "SELECT * FROM (SELECT * FROM clicks) AS c, users AS u",
        "SELECT * FROM (VALUES (1, 'a'), (2, 'b')) AS v(id, name)",
        "SELECT (SELECT max(t) FROM clicks) AS newest, user_id FROM users WHERE EXISTS (SELECT 1 FROM clicks)",
        "-- the newest\nSELECT /* all; of them */ * FROM clicks",
        "SELECT 'it''s; fine -- really' AS s, x'00ff' AS b, DATE '2024-05-01' AS d, INTERVAL '1 day' AS i FROM clicks",
        "SELECT *, row_number() OVER (PARTITION BY user_id ORDER BY t) AS n FROM clicks ORDER BY t LIMIT 10",
        "SELECT regexp_like(url, '\\d+') AS m FROM clicks",
        "SELECT transform FROM clicks",
        "SELECT x.u FROM clicks, UNNEST(tags) AS x(u)",
        "SELECT CASE WHEN a THEN b ELSE c END, CAST(d AS BIGINT), e::int FROM clicks",
    ] {
        assert_eq!(check(sql, &SOURCES, false), Ok(()), "{sql}");
    }
}

#[test]
fn window_placeholders_need_windows() {
    let sql = "SELECT * FROM clicks WHERE t >= $window_start AND t < $window_stop AND t >= $start";
    assert_eq!(check(sql, &SOURCES, true), Ok(()));
    assert_eq!(
        message(sql),
        "line 1, column 33: $window_start is not known: the feature set has no windows; use $start and $stop"
    );
}

#[test]
fn hostile_text_is_refused() {
    for sql in [
        // more than one statement
        "SELECT 1; SELECT 2",
        "SELECT * FROM clicks; DROP TABLE clicks",
        "SELECT * FROM clicks;",
        "SELECT * FROM clicks; -- harmless",
        ";",
        "",
        "   -- nothing\n",
        "SELECT 1 SELECT 2",
        // other statements
        "DROP TABLE clicks",
        "CREATE TABLE t AS SELECT * FROM clicks",
        "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'",
        "CREATE FUNCTION f() RETURNS INT RETURN 1",
        "INSERT INTO clicks SELECT * FROM clicks",
        "UPDATE clicks SET a = 1",
        "DELETE FROM clicks",
        "MERGE INTO clicks USING users ON true WHEN MATCHED THEN DELETE",
        "TRUNCATE TABLE clicks",
        "COPY clicks TO '/tmp/x.csv'",
        "COPY (SELECT * FROM clicks) TO 's3://elsewhere/x' STORED AS CSV",
        "SET datafusion.execution.batch_size = 1",
        "SET spark.sql.x = 1",
        "EXPLAIN SELECT * FROM clicks",
        "EXPLAIN ANALYZE SELECT * FROM clicks",
        "SHOW TABLES",
        "DESCRIBE clicks",
        "USE other",
        "PREPARE p AS SELECT 1",
        "CALL f()",
        "ADD JAR 's3://elsewhere/x.jar'",
        "VALUES (1), (2); DROP TABLE clicks",
        "TABLE clicks",
        // statements inside a query
        "SELECT * INTO other FROM clicks",
        "WITH gone AS (DELETE FROM clicks RETURNING *) SELECT * FROM gone",
        "WITH more AS (INSERT INTO clicks VALUES (1) RETURNING *) SELECT * FROM more",
        "SELECT * FROM clicks FOR UPDATE",
        "SELECT * FROM clicks FOR SHARE",
        "SELECT * FROM (SELECT * FROM clicks FOR UPDATE) AS c",
        "SELECT * FROM clicks FORMAT JSONCompact",
        "SELECT * FROM clicks SETTINGS max_threads = 1",
        // other tables
        "SELECT * FROM other",
        "SELECT * FROM \"users\"",
        "SELECT * FROM information_schema.tables",
        "SELECT * FROM \"information_schema\".\"df_settings\"",
        "SELECT * FROM public.clicks",
        "SELECT * FROM datafusion.public.clicks",
        "SELECT * FROM delta.`/etc`",
        "SELECT * FROM parquet.`s3://elsewhere/x`",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM 's3://elsewhere/x.parquet'",
        "SELECT * FROM \"/store/other/x.parquet\"",
        "SELECT * FROM `/store/other`",
        "SELECT * FROM clicks WHERE id IN (SELECT id FROM secrets)",
        "SELECT (SELECT count(*) FROM secrets) FROM clicks",
        "SELECT * FROM clicks UNION SELECT * FROM secrets",
        "SELECT * FROM clicks UNION TABLE secrets",
        "SELECT * FROM clicks VERSION AS OF 1",
        // table functions
        "SELECT * FROM read_parquet('s3://elsewhere/x')",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM generate_series(1, 100000000000)",
        "SELECT * FROM TABLE(read_files('/etc'))",
        "SELECT * FROM clicks, LATERAL read_files('/etc') AS r",
        "SELECT * FROM clicks(NOLOCK)",
        // code
        "SELECT reflect('java.lang.System', 'getenv', 'AWS_SECRET_ACCESS_KEY') FROM clicks",
        "SELECT java_method('java.lang.Runtime', 'getRuntime') FROM clicks",
        "SELECT Try_Reflect('java.lang.System', 'exit', 1) FROM clicks",
        "SELECT `reflect`('java.lang.System', 'exit', 1) FROM clicks",
        "SELECT system.builtin.reflect('java.lang.System', 'exit', 1) FROM clicks",
        "SELECT 1 FROM clicks LATERAL VIEW explode(array(reflect('a', 'b'))) x AS y",
        "SELECT TRANSFORM(a) USING 'cat /etc/passwd' AS b FROM clicks",
        "SELECT TRANSFORM(a) USING FROM clicks",
        "SELECT IDENTIFIER('reflect')('java.lang.System', 'getenv') FROM clicks",
        "SELECT identifier('a') FROM clicks",
        "SELECT * FROM IDENTIFIER('parquet.`/etc`')",
        "SELECT 1 /* /*+ */ , reflect('a', 'b') /* */ -- */\n FROM clicks",
        "SELECT /*+ COALESCE(reflect('a', 'b')) */ 1 FROM clicks",
        // files and addresses in arguments
        "SELECT from_protobuf(b, 'm', '/var/run/secrets/redis/url') FROM clicks",
        "SELECT from_avro(b, 's', map('avroSchemaUrl', 'file:///etc/passwd')) FROM clicks",
        "SELECT from_xml(a, 'a INT', map('rowValidationXSDPath', '/etc/passwd')) FROM clicks",
        "SELECT Schema_Of_XML('<a/>', map('rowValidationXSDPath', '/etc/passwd')) FROM clicks",
        "SELECT * FROM table_changes_by_path('/store/other', 0)",
        "SELECT read_files('/etc') FROM clicks",
        // placeholders, variables, substitution
        "SELECT $1 FROM clicks",
        "SELECT ? FROM clicks",
        "SELECT :name FROM clicks",
        "SELECT $Start FROM clicks",
        "SELECT $start_time FROM clicks",
        "SELECT @@version FROM clicks",
        "SELECT @secret FROM clicks",
        "SELECT '${env:AWS_SECRET_ACCESS_KEY}' FROM clicks",
        "SELECT ${system:user.home} FROM clicks",
        // text that the engines read differently
        "SELECT 'a\\'', reflect(\"java.lang.System\", \"exit\", 1), '' FROM clicks",
        "SELECT \"a\\\"\" FROM clicks",
        "SELECT 1 -- \\\n FROM secrets",
        "SELECT $$ reflect('a') $$ FROM clicks",
        "SELECT $tag$ x $tag$ FROM clicks",
        "SELECT E'x' FROM clicks",
        "SELECT N'x' FROM clicks",
        "SELECT U&'\\0041' FROM clicks",
        "SELECT q'[it's]' FROM clicks",
        // broken text
        "SELECT * FROM",
        "SELECT 'unterminated FROM clicks",
        "SELECT /* unterminated FROM clicks",
        "SELECT (((1)) FROM clicks",
        "SELECT \0 FROM clicks",
    ] {
        assert!(check(sql, &SOURCES, false).is_err(), "accepted: {sql}");
    }
}

#[test]
fn deep_nesting_is_refused_and_does_not_overflow_the_stack() {
    let deep = format!("SELECT {}1{} FROM clicks", "(".repeat(10_000), ")".repeat(10_000));
    assert_eq!(message(&deep), "the text is nested too deeply");
}

#[test]
fn a_refusal_says_where_and_the_way_out() {
    for (sql, expected) in [
        ("SELECT *\nFROM clicks;\n", "line 2, column 12: leave out the semicolon at the end"),
        (
            "SELECT 1;\nDROP TABLE x",
            "line 1, column 9: only one statement is allowed; write exactly one SELECT, without a semicolon",
        ),
        ("DROP TABLE clicks", "line 1, column 1: DROP is not allowed; write exactly one SELECT"),
        ("SELECT *\n  FROM other", "line 2, column 8: other is not a source; the sources are clicks, Users"),
        (
            "SELECT * FROM information_schema.tables",
            "line 1, column 15: information_schema.tables has a schema; write the name of a source alone: the sources are clicks, Users",
        ),
        ("SELECT * FROM read_csv('x')", "line 1, column 15: read_csv(…) is not allowed in FROM; read from the sources"),
        ("SELECT reflect('a') FROM clicks", "line 1, column 8: reflect is not allowed: it runs code"),
        ("SELECT $now FROM clicks", "line 1, column 8: $now is not known; the placeholders are $start, $stop"),
        ("SELECT a b c FROM clicks", "line 1, column 12: it cannot be read: Expected: end of statement, found: c"),
        (
            "SELECT 'é', '${x}' FROM clicks",
            "line 1, column 14: \"${\" would be substituted by Spark; write $start, $stop, $window_start or $window_stop",
        ),
        ("", "there is no statement; write exactly one SELECT"),
    ] {
        assert_eq!(message(sql), expected, "{sql}");
    }
}

#[test]
fn a_predicate_is_one_expression_over_the_row() {
    for predicate in ["clicks >= 0", "clicks BETWEEN 0 AND 10 OR name IS NULL", "length(name) < 100", "a IN (1, 2)"] {
        assert_eq!(check_predicate(predicate), Ok(()), "{predicate}");
    }
    for predicate in [
        "",
        "a >",
        "a > 0; DROP TABLE x",
        "a > 0 b",
        "(SELECT 1) = 1",
        "a IN (SELECT a FROM t)",
        "EXISTS (SELECT 1)",
        "a > $start",
        "reflect('a') = 1",
        "x.y.reflect() = 1",
        "a > 0) OR (1 = 1",
        "SELECT 1",
        "a = '${env:X}'",
        "a = 1 --\\\n",
    ] {
        assert!(check_predicate(predicate).is_err(), "accepted: {predicate}");
    }
}

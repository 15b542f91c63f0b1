"""Stages the rows of backfills with Apache Spark, for the worker that starts this program and talks to it.

The worker decides everything: what is read, what the columns become, which rows belong to which window, where files go. This
program runs the one SELECT of the feature set and writes its rows, sorted, into a Delta table of their own: the log of that table
names exactly the files of tasks that were committed, so that nothing has to be found by listing.

They talk in lines of JSON, the worker on standard input and this program on standard output:

    program   {"waiting": {"what"}}                        several nodes: Spark is there, and no executor yet
    program   {"ready": {}}                                Spark is there
    worker    {"analyse": {sources, sql, window}}          the SELECT is parsed, judged and analysed, nothing is computed
    program   {"columns": [{"name", "type"}]}              what it returns
    worker    {"stage": {columns, keys, time, …, groups}}  windows in groups, each written by one job
    program   {"progress": {…}} …                          windows and tasks
    program   {"staged": {"windows": [{…}]}}               what was kept and dropped of each window

or {"failed": {"kind", "message"}} in place of an answer. The worker may begin with another task at any time. When standard input ends,
the worker has ended, and so does this program, at once and in the middle of whatever it does.

Settings of Spark come from a properties file that the worker writes; nothing secret is an argument or in the environment.
"""

import functools
import json
import os
import queue
import threading
import time
from datetime import datetime, timedelta, timezone

from py4j.protocol import Py4JError, Py4JJavaError, Py4JNetworkError
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, Observation, SparkSession
from pyspark.sql import functions as F

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)

# How often progress is told while a job runs.
PROGRESS_SECONDS = 1.0

# What begins the message of an error that a cast of ours raises.
OVERFLOW = "featureset.dev/overflow "

# The column that orders duplicates, behind all others. No feature can have this name.
KEEP_LAST = "keep-last"

# The nodes of which a parsed SELECT may consist. What is not here (commands, scripts, table functions) does not run.
NODES = {
    "Aggregate",
    "Deduplicate",
    "Distinct",
    "Except",
    "Expand",
    "Filter",
    "Generate",
    "GlobalLimit",
    "Intersect",
    "Join",
    "LateralJoin",
    "LocalLimit",
    "LocalRelation",
    "Offset",
    "OneRowRelation",
    "Pivot",
    "Project",
    "Range",
    "Sample",
    "Sort",
    "SubqueryAlias",
    "Union",
    "UnionLoop",
    "UnionLoopRef",
    "Unpivot",
    "UnresolvedHaving",
    "UnresolvedInlineTable",
    "UnresolvedQualify",
    "UnresolvedRelation",
    "UnresolvedSubqueryColumnAliases",
    "UnresolvedWith",
    "Window",
    "WithWindowDefinition",
}

# Functions that run code, or read what their arguments name. They are taken out of every session.
FUNCTIONS = [
    "from_avro",
    "from_protobuf",
    "from_xml",
    "java_method",
    "reflect",
    "schema_of_avro",
    "schema_of_xml",
    "to_avro",
    "to_protobuf",
    "try_reflect",
]


# What is counted of the rows of a window.
COUNTED = ["nullKey", "outside", "atStop", "kept"]

# What a failure says when memory did not suffice. Java ends with 3 when its heap is full, Spark with 52, the kernel with 137.
MEMORY = ["OutOfMemoryError", "with code 3 ", "with code 52 ", "with code 137 ", "exit code 52", "exit code 137"]


class Refused(Exception):
    """A failure that has its kind and message already."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind


class Lines:
    """The conversation with the worker."""

    def __init__(self, incoming, outgoing, end):
        self.outgoing = outgoing
        self.lock = threading.Lock()
        self.received = queue.Queue()
        threading.Thread(target=self.read, args=(incoming, end), daemon=True).start()

    def read(self, incoming, end) -> None:
        for line in incoming:
            self.received.put(json.loads(line))
        end()

    def next(self) -> dict:
        return self.received.get()

    def say(self, **message) -> None:
        with self.lock:
            self.outgoing.write(json.dumps(message) + "\n")
            self.outgoing.flush()


def main() -> None:
    # What libraries and Java print must not come between the lines.
    outgoing = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    incoming = os.fdopen(os.dup(0), "r", encoding="utf-8")
    # Java ends when its own standard input does, which it gets from this process.
    lines = Lines(incoming, outgoing, lambda: os._exit(0))
    try:
        session = open_session()
        await_executor(session, lines)
    except Exception as error:
        lines.say(failed={"kind": "spark", "message": f"Spark does not start: {plain(error)}"})
        return
    lines.say(ready={})
    serve(session, lines)


def open_session() -> SparkSession:
    properties = os.environ["BACKFILL_SPARK_PROPERTIES"]
    os.environ["PYSPARK_SUBMIT_ARGS"] = f'--properties-file "{properties}" pyspark-shell'
    return SparkSession.builder.getOrCreate()


def await_executor(session: SparkSession, lines: Lines) -> None:
    """Spark itself would wait for one without an end. The worker knows how long is too long."""
    context = session.sparkContext
    if context.master.startswith("local"):
        return
    lines.say(waiting={"what": "none of its executors has come"})
    # The driver is one of them.
    while context._jsc.sc().getExecutorMemoryStatus().size() < 2:
        time.sleep(0.2)


def serve(root: SparkSession, lines: Lines) -> None:
    """Task after task: what each returns, and what it stages if that is asked for."""
    session, task = root, None
    while True:
        asked = lines.next()
        try:
            if "analyse" in asked:
                session, task = isolated(root), asked["analyse"]
                fields = analyse(session, task).schema.fields
                lines.say(columns=[{"name": field.name, "type": field.dataType.jsonValue()} for field in fields])
            else:
                lines.say(staged={"windows": stage(session, task, asked["stage"], lines)})
        except Refused as refused:
            lines.say(failed={"kind": refused.kind, "message": str(refused)})
        except Exception as error:
            lines.say(failed=failure(error))


def isolated(root: SparkSession) -> SparkSession:
    """A session in which nothing is visible yet, and no function that reaches outside."""
    session = root.newSession()
    java = session._jvm
    registry = session._jsparkSession.sessionState().functionRegistry()
    some = java.scala.Option.apply
    for name in FUNCTIONS:
        registry.dropFunction(java.org.apache.spark.sql.catalyst.FunctionIdentifier(name, some("builtin"), some("system")))
    return session


def analyse(session: SparkSession, task: dict) -> DataFrame:
    for source in task["sources"]:
        try:
            read(session, source).createOrReplaceTempView(f"`{source['name']}`")
        except PySparkException as error:
            raise Refused("source", f"cannot read source \"{source['name']}\": {plain(error)}") from error
    sql = bind(task["sql"], task["window"])
    refuse_other_than_select(session._jsparkSession.sessionState().sqlParser().parsePlan(sql))
    return session.sql(sql)


def read(session: SparkSession, source: dict) -> DataFrame:
    if source["format"] == "delta":
        return session.read.format("delta").option("versionAsOf", source["version"]).load(source["uri"])
    reader = session.read.format(source["format"]).option("__globPaths__", "false")
    match source["format"]:
        case "parquet":
            reader = reader.option("mergeSchema", "true")
        case "csv":
            options = {"header": True, "enforceSchema": False, "mode": "FAILFAST", "escape": '"', "emptyValue": ""}
            reader = reader.schema(source["schema"]).options(**options)
        case "json":
            reader = reader.schema(source["schema"]).option("mode", "FAILFAST")
    frame = reader.load(source["files"])
    for name, zoned in source.get("nanos", []):
        frame = frame.withColumn(name, micros_of(name, zoned))
    return frame


def micros_of(name: str, zoned: bool) -> Column:
    """Spark knows no nanoseconds and reads such times as integers. The microsecond in which each lies."""
    nanos = F.col(f"`{name}`")
    t = F.timestamp_micros(F.call_function("div", nanos - F.pmod(nanos, F.lit(1000)), F.lit(1000)))
    return t if zoned else t.cast("timestamp_ntz")


def bind(sql: list[str], window: dict) -> str:
    """Texts and, between them, names of parameters. Each becomes a time as SQL writes it."""
    values = (piece if at % 2 == 0 else instant(window[piece]) for at, piece in enumerate(sql))
    return "".join(values)


def instant(micros: int) -> str:
    t = EPOCH + timedelta(microseconds=micros)
    return f"TIMESTAMP '{t.replace(tzinfo=None).isoformat()}Z'"


def refuse_other_than_select(plan) -> None:
    """The worker has judged the text; this judges what Spark itself understood."""
    name = plan.getClass().getSimpleName()
    if name not in NODES:
        raise Refused("transform", f"{name} is not allowed; write exactly one SELECT over the sources")
    if name == "UnresolvedRelation" and plan.multipartIdentifier().size() != 1:
        raise Refused("transform", f"{plan.tableName()} has a schema; write the name of a source alone")
    for below in (plan.children(), plan.innerChildren(), plan.subqueries()):
        for at in range(below.size()):
            child = below.apply(at)
            # Children that are no plans are expressions, which the session's functions bound.
            if hasattr_java(child, "subqueries"):
                refuse_other_than_select(child)


def hasattr_java(thing, method: str) -> bool:
    return any(m.getName() == method for m in thing.getClass().getMethods())


def stage(session: SparkSession, task: dict, asked: dict, lines: Lines) -> list[dict]:
    """Writes group after group, each in one job, and returns what became of the rows of each window."""
    told = []
    windows = sum(len(group["windows"]) for group in asked["groups"])
    for number, group in enumerate(asked["groups"]):
        given = [(conformed(session.sql(bind(task["sql"], window)), asked), window) for window in group["windows"]]
        observations = [Observation(f"window {number}.{at}") for at in range(len(given))]
        rows = None
        for (result, window), observation in zip(given, observations):
            one = kept(result, asked, window, observation)
            rows = one if rows is None else rows.unionAll(one)
        with Ticker(session, lines, len(told), windows):
            write(rows, asked, group)
        told += [observed(observation) or counted(*of, asked) for observation, of in zip(observations, given)]
        lines.say(progress={"windows": len(told), "of": windows, "rows": sum(one["kept"] for one in told[-len(given):])})
    return told


def observed(observation: Observation) -> dict | None:
    """What was counted while the rows were written; nothing where Spark saw beforehand that there are none."""
    row = observation._jo.getRow()
    return {name: row.getLong(at) for at, name in enumerate(COUNTED)} if row.size() else None


def counted(result: DataFrame, window: dict, asked: dict) -> dict:
    row = result.agg(*counts(asked, window)).first()
    return {name: row[name] for name in COUNTED}


def conformed(rows: DataFrame, asked: dict) -> DataFrame:
    """The columns that the worker asks for, in their types. A value that does not fit fails, by the column's name."""
    # By their places: names may be there twice.
    rows = rows.toDF(*(f"c{at}" for at in range(len(rows.columns))))
    return rows.select(*(cast(F.col(f"c{column['from']}"), column).alias(column["name"]) for column in asked["columns"]))


def cast(value: Column, column: dict) -> Column:
    if column["type"] is None:
        return value
    if not column["checked"]:
        return value.cast(column["type"])
    if column["type"].startswith("array<"):
        element = column["type"].removeprefix("array<").removesuffix(">")
        return F.transform(value, lambda one: checked(one, element, column["name"]))
    return checked(value, column["type"], column["name"])


def checked(value: Column, kind: str, name: str) -> Column:
    overflow = F.raise_error(F.concat(F.lit(f"{OVERFLOW}column \"{name}\" has a value that does not fit its type: "), value.cast("string")))
    return F.when(value.isNull(), F.lit(None).cast(kind)).otherwise(F.coalesce(value.try_cast(kind), overflow.cast(kind)))


def kept(rows: DataFrame, asked: dict, window: dict, observation: Observation) -> DataFrame:
    """The rows of one window: with keys and a time, which lies in the window. The others are counted."""
    present, inside = judged(asked, window)
    return rows.observe(observation, *counts(asked, window)).where(present & inside)


def judged(asked: dict, window: dict) -> tuple[Column, Column]:
    """Whether a row has keys and a time, and whether this lies in the window."""
    required = [F.col(name).isNotNull() for name in [*asked["keys"], asked["time"]]]
    t = F.unix_micros(F.col(asked["time"]))
    return functools.reduce(Column.__and__, required), (t >= F.lit(window["from"])) & (t < F.lit(window["to"]))


def counts(asked: dict, window: dict) -> list[Column]:
    present, inside = judged(asked, window)
    at_stop = F.unix_micros(F.col(asked["time"])) == F.lit(window["to"])
    # What lies elsewhere is not missed for lack of a key. Without a time, nothing is known to lie elsewhere.
    conditions = [~present & F.coalesce(inside, F.lit(True)), ~inside, at_stop, present & inside]
    return [F.count_if(condition).alias(name) for name, condition in zip(COUNTED, conditions)]


def write(rows: DataFrame, asked: dict, group: dict) -> None:
    """Cuts the rows into slices of time, and these by their keys: rows of equal keys and time come into one file, and files hold
    spans of time, without a look at the data beforehand."""
    time_column = asked["time"]
    since = F.floor((F.unix_micros(F.col(time_column)) - F.lit(group["from"])) / F.lit(group["step"]))
    part = F.lit(0)
    if group["buckets"] > 1:
        part = F.pmod(F.hash(*(F.col(name) for name in asked["keys"])), F.lit(group["buckets"]))
    slices, buckets = group["slices"], group["buckets"]
    number = F.greatest(F.least(since, F.lit(slices - 1)), F.lit(0)) * F.lit(buckets) + part
    order = [F.col(time_column).asc(), *(F.col(name).asc() for name in asked["keys"])]
    date = asked["date"]
    if date is not None:
        day = F.to_date(F.col(time_column))
        rows = rows.withColumn(date["column"], F.trunc(day, "month") if date["month"] else day)
        order.insert(0, F.col(date["column"]).asc())
    if asked["keepLast"]:
        order.append(F.col(f"`{KEEP_LAST}`").desc_nulls_last())
    rows = rows.repartitionById(slices * buckets, number.cast("int")).sortWithinPartitions(*order)
    writer = rows.write.format("delta").mode("append")
    if date is not None:
        # Delta 4 writes the column into the files, too, unless it is told not to.
        writer = writer.option("delta.writePartitionColumnsToParquet", "false").partitionBy(date["column"])
    writer.save(asked["table"])


class Ticker:
    """Tells how many tasks of the running job are done."""

    def __init__(self, session: SparkSession, lines: Lines, done: int, windows: int):
        self.tracker = session.sparkContext.statusTracker()
        self.lines, self.done, self.windows = lines, done, windows
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(self, *_) -> None:
        self.ended.set()
        self.thread.join()

    def run(self) -> None:
        while not self.ended.wait(PROGRESS_SECONDS):
            stages = [self.tracker.getStageInfo(stage) for stage in self.tracker.getActiveStageIds()]
            tasks = sum(stage.numTasks for stage in stages if stage)
            ended = sum(stage.numCompletedTasks for stage in stages if stage)
            self.lines.say(progress={"windows": self.done, "of": self.windows, "tasks": tasks, "ended": ended})


def failure(error: Exception) -> dict:
    """What an error means, by the words that Spark and Java have for it."""
    text = full(error)
    message = plain(error)
    if OVERFLOW in text:
        return {"kind": "cast", "message": text.split(OVERFLOW, 1)[1].splitlines()[0].strip()}
    if any(word in text for word in MEMORY):
        return {"kind": "memory", "message": message}
    if "No space left on device" in text or "Disk quota exceeded" in text:
        return {"kind": "disk", "message": message}
    if isinstance(error, (Py4JNetworkError, ConnectionError)):
        return {"kind": "spark", "message": f"Spark's Java process is gone: {message}"}
    if any(word in text for word in ("AccessDeniedException", "InvalidAccessKeyId", "SignatureDoesNotMatch")):
        return {"kind": "auth", "message": message}
    if any(word in text for word in ("TASK_WRITE_FAILED", "DELTA_")) and not rooted_in_query(text):
        return {"kind": "write", "message": message}
    if "SparkContext was shut down" in text or "Master removed our application" in text:
        return {"kind": "spark", "message": message}
    if isinstance(error, (PySparkException, Py4JError)):
        return {"kind": "transform", "message": message}
    return {"kind": "spark", "message": f"{type(error).__name__}: {message}"}


def rooted_in_query(text: str) -> bool:
    """Whether an error while writing comes from computing what is written."""
    causes = [line for line in text.splitlines() if line.startswith("Caused by: ")]
    return any("SQLSTATE: 22" in line or "Arithmetic" in line or "DateTime" in line or "UserRaised" in line for line in causes)


def full(error: Exception) -> str:
    """All that an error says, with its causes."""
    texts = [str(error)]
    java = getattr(error, "java_exception", None) or getattr(error, "_origin", None)
    if java is not None:
        texts.append(stack(java))
    return "\n".join(texts)


def stack(java) -> str:
    try:
        return str(java) if isinstance(java, str) else java.toString() + "\n" + causes_of(java)
    except Py4JError:
        return ""


def causes_of(java) -> str:
    lines, cause = [], java.getCause()
    while cause is not None and len(lines) < 20:
        lines.append(f"Caused by: {cause.toString()}")
        cause = cause.getCause()
    return "\n".join(lines)


def plain(error: Exception) -> str:
    """The first lines that a person can use: the innermost cause that says something, without Java's stack."""
    text = str(error)
    if isinstance(error, Py4JJavaError):
        text = error.java_exception.toString()
    java = getattr(error, "java_exception", None) or getattr(error, "_origin", None)
    cause = java
    try:
        while cause is not None and not isinstance(cause, str):
            if cause.getMessage():
                text = cause.getMessage()
            cause = cause.getCause()
    except Py4JError:
        pass
    lines = []
    for line in text.splitlines():
        line = line.strip()
        if line.startswith(("at ", "== SQL", "== Data", "JVM stacktrace", "Driver stacktrace")):
            break
        if line:
            lines.append(line)
        if len(lines) == 3:
            break
    return " ".join(lines)[:1000]


if __name__ == "__main__":
    main()

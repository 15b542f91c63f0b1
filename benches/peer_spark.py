"""Replaces an interval of a Delta table with Spark in this process: rows with `f1 + 1` from the source files, written with
`replaceWhere`. Prints `{"seconds": …, "session_seconds": …, "peak_bytes": …}`: the replacement without the start of the session,
that start, and the most memory that the Java process used.

The Delta jars are io.delta:delta-spark_4.2_2.13:4.4.0 and io.delta:delta-storage:4.4.0.
"""

import argparse
import json
import os
import re
import time
from datetime import datetime
from pathlib import Path

from pyspark.sql import SparkSession, functions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jars", type=Path, required=True, help="the folder of the Delta jars")
    parser.add_argument("--memory", default="8g", help="Java heap")
    parser.add_argument("--partitioned", action="store_true")
    parser.add_argument("table", type=Path)
    parser.add_argument("source", type=Path)
    parser.add_argument("start", type=datetime.fromisoformat, help="RFC 3339")
    parser.add_argument("stop", type=datetime.fromisoformat, help="RFC 3339, not replaced")
    arguments = parser.parse_args()
    opened = time.monotonic()
    session = open_session(arguments)
    started = time.monotonic()
    replace(session, arguments)
    finished = time.monotonic()
    print(json.dumps({"seconds": finished - started, "session_seconds": started - opened, "peak_bytes": java_peak_bytes(session)}))
    session.stop()


def open_session(arguments: argparse.Namespace) -> SparkSession:
    return (
        SparkSession.builder.master(f"local[{os.cpu_count()}]")
        .config("spark.jars", ",".join(str(jar) for jar in sorted(arguments.jars.glob("*.jar"))))
        .config("spark.driver.memory", arguments.memory)
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension")
        .config("spark.sql.catalog.spark_catalog", "org.apache.spark.sql.delta.catalog.DeltaCatalog")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.parquet.compression.codec", "zstd")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .getOrCreate()
    )


def replace(session: SparkSession, arguments: argparse.Namespace) -> None:
    start, stop = (f"timestamp '{bound.isoformat()}'" for bound in (arguments.start, arguments.stop))
    interval = f"event_timestamp >= {start} AND event_timestamp < {stop}"
    rows = session.read.parquet(str(arguments.source)).where(interval).withColumns(new_columns(arguments))
    # Spark prunes partitions only by the partition column.
    dates = f"event_date >= '{arguments.start.date()}' AND event_date <= '{arguments.stop.date()}' AND " if arguments.partitioned else ""
    writer = rows.write.format("delta").mode("overwrite").option("replaceWhere", dates + interval)
    (writer.partitionBy("event_date") if arguments.partitioned else writer).save(str(arguments.table))


def new_columns(arguments: argparse.Namespace) -> dict:
    columns = {"f1": functions.expr("f1 + 1")}
    if arguments.partitioned:
        columns["event_date"] = functions.to_date("event_timestamp")
    return columns


def java_peak_bytes(session: SparkSession) -> int:
    java = session.sparkContext._jvm.ProcessHandle.current().pid()
    return int(re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{java}/status").read_text())[1]) * 1024


if __name__ == "__main__":
    main()

"""Replaces an interval of a Delta table with Python's deltalake: rows with `f1 + 1` from the source files, written by an
overwrite with a predicate. Prints `{"seconds": …}`: the replacement without the start of Python and its imports.

    --reader duckdb    DuckDB reads the source and computes
    --reader arrow     Arrow reads the source and computes
    --predicate time   replaces rows by their event time, as an interval needs in general
    --predicate date   replaces whole days by the partition column, which is right for bounds at midnight only
"""

import argparse
import json
import time
from datetime import datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from deltalake import WriterProperties, write_deltalake


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reader", choices=("duckdb", "arrow"), required=True)
    parser.add_argument("--predicate", choices=("time", "date"), default="time")
    parser.add_argument("--partitioned", action="store_true")
    parser.add_argument("table", type=Path)
    parser.add_argument("source", type=Path)
    parser.add_argument("start", type=datetime.fromisoformat, help="RFC 3339")
    parser.add_argument("stop", type=datetime.fromisoformat, help="RFC 3339, not replaced")
    arguments = parser.parse_args()
    started = time.monotonic()
    read = duckdb_reader if arguments.reader == "duckdb" else arrow_reader
    new_rows = read(arguments.source, arguments.start, arguments.stop, arguments.partitioned)
    write_deltalake(
        arguments.table,
        new_rows,
        mode="overwrite",
        predicate=predicate(arguments),
        partition_by=["event_date"] if arguments.partitioned else None,
        writer_properties=WriterProperties(compression="ZSTD"),
    )
    print(json.dumps({"seconds": time.monotonic() - started}))


def predicate(arguments: argparse.Namespace) -> str:
    if arguments.predicate == "date":
        return f"event_date >= '{arguments.start.date()}' AND event_date < '{arguments.stop.date()}'"
    return f"event_timestamp >= '{arguments.start.isoformat()}' AND event_timestamp < '{arguments.stop.isoformat()}'"


def duckdb_reader(source: Path, start: datetime, stop: datetime, partitioned: bool) -> pa.RecordBatchReader:
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.from_parquet(f"{source}/*.parquet").create_view("source")
    date = ", event_timestamp::DATE AS event_date" if partitioned else ""
    rows = connection.sql(
        f"SELECT * REPLACE (f1 + 1 AS f1){date} FROM source WHERE event_timestamp >= $start AND event_timestamp < $stop",
        params={"start": start, "stop": stop},
    )
    return rows.to_arrow_reader()


def arrow_reader(source: Path, start: datetime, stop: datetime, partitioned: bool) -> pa.RecordBatchReader:
    files = ds.dataset(source)
    time_of = pc.field("event_timestamp")
    columns = {name: pc.field(name) for name in files.schema.names}
    columns["f1"] = pc.add(pc.field("f1"), 1.0)
    if partitioned:
        columns["event_date"] = time_of.cast(pa.date32())
    return files.scanner(columns=columns, filter=(time_of >= start) & (time_of < stop)).to_reader()


if __name__ == "__main__":
    main()

"""Makes the tables of the benchmark: the same rows as source files and as two Delta tables.

    FOLDER/source/           13 Parquet files, in order of time
    FOLDER/partitioned/      Delta, one file for each event_date
    FOLDER/unpartitioned/    Delta, 25 files in order of time

A row has an entity (a few of a million have most of the rows), an event time, eight doubles and two strings. With the defaults
these are 36.5 million rows over 365 days. The same arguments give the same rows. What is there already stays.
"""

import argparse
import json
import shutil
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable, WriterProperties, write_deltalake

SEED = 20240101
START = datetime(2024, 1, 1, tzinfo=timezone.utc)
MICROS_PER_DAY = 86_400_000_000
SOURCE_FILES = 13
UNPARTITIONED_FILES = 25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--rows-per-day", type=int, default=100_000)
    parser.add_argument("--entities", type=int, default=1_000_000)
    arguments = parser.parse_args()
    shape = {"days": arguments.days, "rows_per_day": arguments.rows_per_day, "entities": arguments.entities}
    made = arguments.folder / "shape.json"
    if made.exists() and json.loads(made.read_text()) == shape:
        return
    shutil.rmtree(arguments.folder, ignore_errors=True)
    write_source(arguments.folder / "source", shape)
    write_table(arguments.folder / "partitioned", shape, parts=SOURCE_FILES, partition_by=["event_date"])
    write_table(arguments.folder / "unpartitioned", shape, parts=UNPARTITIONED_FILES, partition_by=None)
    made.write_text(json.dumps(shape))


def rows(day: int, shape: dict) -> pa.Table:
    """The rows of one day in order of time. Times are distinct, so that no two rows have the same entity and time."""
    count = shape["rows_per_day"]
    random = np.random.default_rng([SEED, day])
    step = MICROS_PER_DAY // count
    offsets = np.arange(count) * step + random.integers(0, step, count)
    start = int((START + timedelta(days=day)).timestamp()) * 1_000_000
    columns = {
        "entity_id": pa.array((random.random(count) ** 2.5 * shape["entities"]).astype(np.int64)),
        "event_timestamp": pa.array(start + offsets).cast(pa.timestamp("us", "UTC")),
    }
    columns |= {f"f{number}": pa.array(random.standard_normal(count)) for number in range(1, 5)}
    columns |= {f"f{number}": pa.array(random.integers(0, 1_000, count) / 10) for number in range(5, 9)}
    columns["city"] = strings("city", 200, random, count)
    columns["device"] = strings("device", 16, random, count)
    return pa.table(columns)


def strings(name: str, distinct: int, random: np.random.Generator, count: int) -> pa.Array:
    values = pa.array([f"{name}-{number:03}" for number in range(distinct)])
    return values.take(pa.array(random.integers(0, distinct, count)))


def parts_of(days: int, parts: int) -> list[range]:
    """The days cut into runs of nearly equal length."""
    bounds = [days * part // parts for part in range(parts + 1)]
    return [range(first, last) for first, last in zip(bounds, bounds[1:]) if first < last]


def write_source(folder: Path, shape: dict) -> None:
    folder.mkdir(parents=True)
    for number, days in enumerate(parts_of(shape["days"], SOURCE_FILES)):
        with pq.ParquetWriter(folder / f"part-{number:02}.parquet", rows(0, shape).schema, compression="zstd") as writer:
            for day in days:
                writer.write_table(rows(day, shape))


def write_table(folder: Path, shape: dict, parts: int, partition_by: list[str] | None) -> None:
    for days in parts_of(shape["days"], parts):
        table = pa.concat_tables(dated(day, shape) if partition_by else rows(day, shape) for day in days)
        properties = WriterProperties(compression="ZSTD")
        write_deltalake(folder, table, mode="append", partition_by=partition_by, writer_properties=properties)
    DeltaTable(folder).create_checkpoint()


def dated(day: int, shape: dict) -> pa.Table:
    date = pa.repeat(pa.scalar((START + timedelta(days=day)).date()), shape["rows_per_day"])
    return rows(day, shape).append_column("event_date", date)


if __name__ == "__main__":
    main()

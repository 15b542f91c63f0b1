"""Feast's own way of filling Redis: `materialize` of a Parquet file with one row per entity. Prints entities per second as JSON.

Runs in the environment of the tests, where Feast is pinned.
"""

import argparse
import json
import os
import tempfile
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

os.environ["FEAST_USAGE"] = "False"

import numpy
import pyarrow
import pyarrow.parquet
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.types import Float64

FEATURES = 10
AT = datetime(2024, 1, 1, tzinfo=timezone.utc)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("connection", help="host:port of a Redis server of its own")
    parser.add_argument("entities", type=int)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "rows.parquet"
        columns = {"entity_id": numpy.arange(arguments.entities), "event_timestamp": numpy.full(arguments.entities, AT.replace(tzinfo=None), "datetime64[us]")}
        columns |= {f"f{feature}": numpy.arange(arguments.entities, dtype=float) + feature for feature in range(FEATURES)}
        pyarrow.parquet.write_table(pyarrow.table(columns), source)
        store = feature_store(folder, source, arguments.connection)
        begun = time.perf_counter()
        store.materialize(AT - timedelta(days=1), AT + timedelta(days=1))
        seconds = time.perf_counter() - begun
    print(json.dumps({"entities": arguments.entities, "per second": round(arguments.entities / seconds)}))


def feature_store(folder: str, source: Path, connection: str) -> FeatureStore:
    store = FeatureStore(config=RepoConfig(
        project="bench",
        provider="local",
        registry=str(Path(folder) / "registry.db"),
        online_store={"type": "redis", "connection_string": connection},
        offline_store={"type": "dask"},
        entity_key_serialization_version=3,
    ))
    entity = Entity(name="entity", join_keys=["entity_id"], value_type=ValueType.INT64)
    view = FeatureView(
        name="bench",
        entities=[entity],
        schema=[Field(name=f"f{feature}", dtype=Float64) for feature in range(FEATURES)],
        source=FileSource(path=str(source), timestamp_field="event_timestamp"),
        ttl=timedelta(0),
    )
    store.apply([entity, view])
    return store


if __name__ == "__main__":
    main()

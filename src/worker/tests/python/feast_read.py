"""Reads our stores with a real Feast client. Request:

    {"what": "online", "project": "nyc", "view": "carrier_delays",
     "entities": [{"name": "carrier", "type": "string"}], "features": [{"name": "flights", "type": "int64"}], "ttlSeconds": 86400,
     "online": {"sqlite": PATH}, "rows": [{"carrier": "UA"}]}

`online` may also be {"redis": "127.0.0.1:6379"}. One line per row asked for:

    {"entity": {"carrier": "UA"}, "values": {"flights": 7}, "statuses": {"flights": "PRESENT"}, "timestamps": {"flights": MICROSECONDS}}

For an entity without a row, Feast answers null with the time 0: `NOT_FOUND` from SQLite, `PRESENT` from Redis.

    {"what": "historical", …, "timestampColumn": "day", "table": PATH, "rows": [{"carrier": "UA", "event_timestamp": MICROSECONDS}]}

joins the offline table to the rows as of their time (without "online"); one line per row with the columns of the answer.
Types are named as in a FeatureSet.
"""

import tempfile
from datetime import timedelta
from pathlib import Path

import pandas as pd
import pyarrow as pa
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, types
from feast.data_format import DeltaFormat
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus

from exchange import answer, answer_rows, double_bits, float_bits, instant, request, run

SCALARS = {
    "string": types.String,
    "bytes": types.Bytes,
    "int32": types.Int32,
    "int64": types.Int64,
    "float32": types.Float32,
    "float64": types.Float64,
    "bool": types.Bool,
    "timestamp": types.UnixTimestamp,
}


def main() -> None:
    asked = request()
    with tempfile.TemporaryDirectory() as folder:
        store = FeatureStore(config=repository(asked, Path(folder)))
        store.apply(definitions(asked))
        refs = [f'{asked["view"]}:{feature["name"]}' for feature in asked["features"]]
        match asked["what"]:
            case "online":
                online(store, refs, asked)
            case "historical":
                historical(store, refs, asked)
            case what:
                raise SystemExit(f'unknown "what": {what!r}')


def repository(asked: dict, folder: Path) -> RepoConfig:
    match asked.get("online", {}):
        case {"sqlite": path}:
            online_store = {"type": "sqlite", "path": path}
        case {"redis": address}:
            online_store = {"type": "redis", "connection_string": address}
        case _:
            online_store = {"type": "sqlite", "path": str(folder / "online.db")}
    return RepoConfig(
        project=asked["project"],
        provider="local",
        registry=str(folder / "registry.db"),
        online_store=online_store,
        offline_store={"type": "duckdb"},
        entity_key_serialization_version=3,
        repo_path=folder,
    )


def definitions(asked: dict) -> list:
    entities = [Entity(name=key["name"], value_type=feast_type(key["type"]).to_value_type()) for key in asked["entities"]]
    columns = [Field(name=column["name"], dtype=feast_type(column["type"])) for column in asked["entities"] + asked["features"]]
    ttl = asked.get("ttlSeconds")
    source = FileSource(
        name=f'{asked["view"]}_source',
        path=asked.get("table", "unused"),
        file_format=DeltaFormat(),
        timestamp_field=asked.get("timestampColumn", "event_timestamp"),
    )
    view = FeatureView(
        name=asked["view"], entities=entities, schema=columns, source=source, ttl=timedelta(seconds=ttl) if ttl else None
    )
    return [*entities, source, view]


def feast_type(name: str) -> types.FeastType:
    if name.startswith("list<"):
        return types.Array(SCALARS[name.removeprefix("list<").removesuffix(">")])
    return SCALARS[name]


def online(store: FeatureStore, refs: list[str], asked: dict) -> None:
    rows = [decoded(row, asked["entities"]) for row in asked["rows"]]
    response = store.get_online_features(features=refs, entity_rows=rows).proto
    vectors = dict(zip(response.metadata.feature_names.val, response.results))
    features = [feature["name"] for feature in asked["features"]]
    for index, row in enumerate(asked["rows"]):
        answer({
            "entity": row,
            "values": {name: plain(vectors[name].values[index]) for name in features},
            "statuses": {name: FieldStatus.Name(vectors[name].statuses[index]) for name in features},
            "timestamps": {name: vectors[name].event_timestamps[index].ToMicroseconds() for name in features},
        })


def decoded(row: dict, entities: list[dict]) -> dict:
    """The row with keys as Feast wants them: bytes and instants are other things in JSON."""
    decoders = {"bytes": bytes.fromhex, "timestamp": instant}
    return {key["name"]: decoders.get(key["type"], lambda value: value)(row[key["name"]]) for key in entities}


def plain(value):
    """A protobuf value of Feast in the form of exchange.py; a null is a value without content."""
    kind = value.WhichOneof("val")
    if kind is None:
        return None
    content = getattr(value, kind)
    encoders = {"double": double_bits, "float": float_bits, "bytes": bytes.hex, "unix_timestamp": lambda seconds: seconds * 1_000_000}
    encoder = encoders.get(kind.removesuffix("_val").removesuffix("_list"), lambda element: element)
    return [encoder(element) for element in content.val] if kind.endswith("_list_val") else encoder(content)


def historical(store: FeatureStore, refs: list[str], asked: dict) -> None:
    rows = [decoded(row, asked["entities"]) | {"event_timestamp": instant(row["event_timestamp"])} for row in asked["rows"]]
    entity_rows = pd.DataFrame(rows).astype({"event_timestamp": "datetime64[us, UTC]"})
    answer_rows(pa.table(store.get_historical_features(entity_df=entity_rows, features=refs).to_arrow()))


if __name__ == "__main__":
    run(main)

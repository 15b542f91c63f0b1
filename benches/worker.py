"""How the benchmark runs our worker: manifests for `backfill-worker local`, and what it says."""

import json
from datetime import datetime
from pathlib import Path

TABLE = "rows"
FEATURES = {f"f{number}": "float64" for number in range(1, 9)} | {"city": "string", "device": "string"}


def command(worker: Path, state: Path, start: datetime, stop: datetime, engine: str, memory: str) -> list:
    folder = state / "manifests"
    folder.mkdir()
    (folder / "all.yaml").write_text("\n---\n".join(json.dumps(manifest) for manifest in manifests(start, stop, engine, memory)))
    return [worker, "local", "-f", folder, "--state", state, "-o", "json"]


def manifests(start: datetime, stop: datetime, engine: str, memory: str) -> list[dict]:
    """JSON is YAML. The table is there already and keeps its layout."""
    columns = ", ".join(name for name in FEATURES if name != "f1")
    sql = (
        f"SELECT entity_id, event_timestamp, f1 + 1 AS f1, {columns} FROM source "
        "WHERE event_timestamp >= $start AND event_timestamp < $stop"
    )
    feature_set = {
        "entities": [{"name": "entity_id", "type": "int64"}],
        "timestampColumn": "event_timestamp",
        "features": [{"name": name, "type": kind} for name, kind in FEATURES.items()],
        "sources": [{"name": "source", "parquet": {"uri": "file:///store/source/"}}],
        "transformation": {"sql": sql},
    }
    backfill = {"featureSet": TABLE, "startTime": midnight(start), "stopTime": midnight(stop)}
    return [
        manifest("FeatureStore", "default", {"offline": {"uri": "file:///store/offline", "volumeClaim": "store"}}),
        manifest("ClusterTemplate", "bench", {"engine": engine, "cores": 2, "memory": memory, "scratch": "16Gi"}),
        manifest("FeatureSet", TABLE, feature_set),
        manifest("FeatureSetBackfill", "replace", backfill | {"clusterTemplate": "bench"}),
    ]


def manifest(kind: str, name: str, spec: dict) -> dict:
    metadata = {"name": name} if kind == "ClusterTemplate" else {"name": name, "namespace": "bench"}
    return {"apiVersion": "featureset.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}


def midnight(day: datetime) -> str:
    return day.strftime("%Y-%m-%d")


def rows_read(said: str) -> int:
    """How many rows of the table the worker read, from the report in its output."""
    return find(json.loads(said), "rowsRead")


def find(document, field: str):
    if isinstance(document, dict):
        if field in document:
            return document[field]
        document = list(document.values())
    if isinstance(document, list):
        return next((found for value in document if (found := find(value, field)) is not None), None)
    return None

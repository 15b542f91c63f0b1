"""Writes rows to an online store with a real Feast client, as ingestion does. The request is that of feast_read.py with

    {"what": "write", …, "rows": [{"carrier": "UA", "flights": 7, "event_timestamp": MICROSECONDS, "created": MICROSECONDS}]}
"""

import tempfile
from pathlib import Path

import pandas as pd
from feast import FeatureStore

from exchange import instant, request, run
from feast_read import decoded, definitions, repository


def main() -> None:
    asked = request()
    with tempfile.TemporaryDirectory() as folder:
        store = FeatureStore(config=repository(asked, Path(folder)))
        *entities, source, view = definitions(asked)
        source.created_timestamp_column = "created"
        store.apply([*entities, source, view])
        times = ("event_timestamp", "created")
        rows = [row | decoded(row, asked["entities"]) | {name: instant(row[name]) for name in times} for row in asked["rows"]]
        store.write_to_online_store(view.name, pd.DataFrame(rows).astype({name: "datetime64[us, UTC]" for name in times}))


if __name__ == "__main__":
    run(main)

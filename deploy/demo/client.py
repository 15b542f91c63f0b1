"""What the demo does to S3 and Redis as somebody else: `put` puts the sources, `show` reads rows by Python's deltalake and by Feast."""

import sys
import tempfile
from pathlib import Path

from deltalake import DeltaTable
from feast import FeatureStore
from pyarrow.fs import S3FileSystem

from exchange import run
from feast_read import definitions, repository

KEY, SECRET, REGION = "demo", "demosecret", "us-east-1"
FEATURES = [
    {"name": "flights", "type": "int64"},
    {"name": "mean_departure_delay", "type": "float64"},
    {"name": "p90_departure_delay", "type": "float64"},
    {"name": "cancelled_share", "type": "float64"},
]


def main() -> None:
    what, s3, redis, root = sys.argv[1:]
    if what == "put":
        put(s3, Path(root) / "deploy/examples/quickstart/data")
    else:
        show_offline(s3)
        show_online(redis)


def put(s3: str, folder: Path) -> None:
    files = S3FileSystem(
        access_key=KEY, secret_key=SECRET, region=REGION, endpoint_override=s3, scheme="http", allow_bucket_creation=True
    )
    files.create_dir("flights")
    for name in ["flights.parquet", "flights-corrected.parquet"]:
        with files.open_output_stream(f"flights/data/{name}") as target:
            target.write((folder / name).read_bytes())


def show_offline(s3: str) -> None:
    options = {
        "aws_access_key_id": KEY,
        "aws_secret_access_key": SECRET,
        "aws_region": REGION,
        "aws_endpoint": f"http://{s3}",
        "aws_allow_http": "true",
    }
    table = DeltaTable("s3://flights/tables/carrier-delays", storage_options=options)
    rows = table.to_pandas().sort_values(["day", "carrier"])
    print(f"\nOffline: version {table.version()}, {len(rows)} rows")
    print(rows[rows.carrier.isin(["EV", "UA"])].tail(6).to_string(index=False))


def show_online(redis: str) -> None:
    asked = {
        "project": "nyc",
        "view": "carrier_delays",
        "entities": [{"name": "carrier", "type": "string"}],
        "features": FEATURES,
        "online": {"redis": redis},
    }
    with tempfile.TemporaryDirectory() as folder:
        store = FeatureStore(config=repository(asked, Path(folder)))
        store.apply(definitions(asked))
        names = [f"carrier_delays:{feature['name']}" for feature in FEATURES]
        rows = store.get_online_features(features=names, entity_rows=[{"carrier": "EV"}, {"carrier": "UA"}]).to_df()
    print("\nOnline, by Feast:")
    print(rows.to_string(index=False))


if __name__ == "__main__":
    run(main)

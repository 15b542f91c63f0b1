"""Runs SQL with DuckDB, an engine that shares no code with ours. Request:

    {"sql": "SELECT …", "tables": {"flights": {"parquet": PATH}, "rows": {"delta": PATH, "version": 3}},
     "parameters": {"window_start": MICROSECONDS}}

A Delta table is read through Python's deltalake, at its newest version when none is given. `$name` in the SQL stands for the
instant of that parameter; parameters that the SQL does not use are ignored. The answer is one line per row, in the SQL's order.
"""

import re

import duckdb
from deltalake import DeltaTable

from exchange import answer_rows, instant, request, run


def main() -> None:
    asked = request()
    connection = duckdb.connect(config={"autoinstall_known_extensions": False, "autoload_known_extensions": False})
    connection.execute("SET TimeZone = 'UTC'")
    for name, table in asked["tables"].items():
        if "parquet" in table:
            connection.from_parquet(table["parquet"]).create_view(name)
        else:
            connection.register(name, DeltaTable(table["delta"], version=table.get("version")).to_pyarrow_dataset())
    used = set(re.findall(r"\$(\w+)", asked["sql"]))
    parameters = {name: instant(micros) for name, micros in asked.get("parameters", {}).items() if name in used}
    answer_rows(connection.execute(asked["sql"], parameters).fetch_arrow_table())


if __name__ == "__main__":
    run(main)

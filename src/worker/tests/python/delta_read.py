"""Reads a Delta table with Python's deltalake, another client than ours. Request:

    {"table": PATH, "version": 3, "what": "rows"}       one line per row; the newest version when none is given
    {"table": PATH, "what": "history"}                  one line per commit with its commitInfo, oldest first
    {"tables": [PATH, …], "what": "all"}                one line per table: {"rows": […]}, null where there is none
"""

from deltalake import DeltaTable

from exchange import answer, answer_rows, request, rows_of, run


def main() -> None:
    asked = request()
    if asked["what"] == "all":
        for path in asked["tables"]:
            is_table = DeltaTable.is_deltatable(path)
            answer({"rows": rows_of(DeltaTable(path).to_pyarrow_table()) if is_table else None})
        return
    table = DeltaTable(asked["table"], version=asked.get("version"))
    match asked["what"]:
        case "rows":
            answer_rows(table.to_pyarrow_table())
        case "history":
            for commit in reversed(table.history()):
                answer(commit)
        case what:
            raise SystemExit(f'unknown "what": {what!r}')


if __name__ == "__main__":
    run(main)

"""Measures how long replacing an interval takes, beside other tools, on the tables of generate.py, and keeps the result in
docs/benchmarks.md. `make bench` installs what it needs.

Every tool replaces the same days by rows with `f1 + 1`, each time on a new copy of the same table; the first copies of all tools
are compared. Repetitions go round robin, so that noise falls on all alike. The worker is measured as a whole process, the others
without the start of Python, imports and, for Spark, the session.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

import worker
from report import keep, machine, table

HERE = Path(__file__).resolve().parent
SPARK_APP = HERE.parent / "src" / "worker" / "spark" / "stage.py"
FIRST_DAY = datetime(2024, 1, 1, tzinfo=timezone.utc)
TOOLS = {
    "worker": "backfill-worker",
    "engine_spark": "backfill-worker, engine Spark",
    "duckdb": "DuckDB + deltalake",
    "arrow": "Arrow + deltalake",
    "days": "DuckDB + deltalake, by whole partitions",
    "spark": "PySpark + Delta",
}


@dataclass(frozen=True)
class Case:
    """Which days of which table are replaced."""

    layout: str
    days: int
    start: datetime
    stop: datetime


@dataclass(frozen=True)
class Run:
    """What one replacement took."""

    seconds: float
    peak_bytes: int
    bytes_written: int
    rows_read: int | None


def main() -> None:
    arguments = parse()
    shape = ["--days", str(arguments.table_days), "--rows-per-day", str(arguments.rows_per_day)]
    subprocess.run([sys.executable, HERE / "generate.py", arguments.data, *shape], check=True)
    header = ["days", "tool", "seconds, median", "to the worker", "runs", "from", "to", "rows/s", "peak MB", "MB written", "table rows read"]
    command = os.environ["BENCH_TARGET"] + (f" BENCH='{os.environ['BENCH']}'" if os.environ.get("BENCH") else "")
    size = f"{arguments.table_days * arguments.rows_per_day:,} rows over {arguments.table_days} days"
    for layout in arguments.layouts:
        rows = []
        for days in arguments.days:
            start = FIRST_DAY + timedelta(days=max(0, arguments.table_days - days - 5))
            case = Case(layout, days, start, start + timedelta(days=days))
            rows += summary(measure(case, arguments), days, days * arguments.rows_per_day)
        memory = f"`memory: {arguments.memory}`" + (f", of engine Spark {arguments.spark_memory}" if "engine_spark" in arguments.tools else "")
        lines = [f"`{command}` on {machine()}; {size}; worker with {memory}.", "", *table(header, rows)]
        keep(arguments.section or layout, lines) if arguments.keep else print("\n".join(lines))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worker", type=Path, required=True, help="the release build of backfill-worker")
    parser.add_argument("--data", type=Path, required=True, help="folder for the tables, made when it is not there")
    parser.add_argument("--spark-python", type=Path, help="a Python with pyspark; without it Spark is left out")
    parser.add_argument("--spark-jars", type=Path, help="the folder of the Delta jars")
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=[tool for tool in TOOLS if tool != "engine_spark"])
    parser.add_argument("--layouts", nargs="+", choices=("partitioned", "unpartitioned"), default=["partitioned", "unpartitioned"])
    parser.add_argument("--days", nargs="+", type=int, default=[1, 7, 30, 365], help="lengths of the interval")
    parser.add_argument("--repeat", type=int, default=5, help="runs of each; of intervals over 100 days at most 3")
    parser.add_argument("--spark-repeat", type=int, default=2, help="runs of Spark, which take minutes")
    parser.add_argument("--table-days", type=int, default=365)
    parser.add_argument("--rows-per-day", type=int, default=100_000)
    parser.add_argument("--memory", default="512Mi", help="the memory of the worker's cluster template")
    parser.add_argument("--spark-memory", default="4Gi", help="the same of engine Spark")
    parser.add_argument("--section", help="where the result is kept, in place of the layout's name")
    parser.add_argument("--keep", action=argparse.BooleanOptionalAction, default=True, help="keep the result in docs/benchmarks.md")
    return parser.parse_args()


def measure(case: Case, arguments: argparse.Namespace) -> dict[str, list[Run]]:
    tools = [tool for tool in arguments.tools if usable(tool, case, arguments)]
    runs = {tool: [] for tool in tools}
    digests = {}
    for repetition in range(min(arguments.repeat, 3) if case.days > 100 else arguments.repeat):
        for tool in tools:
            if tool in ("spark", "engine_spark") and repetition >= arguments.spark_repeat:
                continue
            with tempfile.TemporaryDirectory(dir=arguments.data) as folder:
                state = Path(folder)
                copied = copy(arguments.data / case.layout, state / "offline" / worker.TABLE)
                copy(arguments.data / "source", state / "source")
                runs[tool].append(replace(tool, case, state, copied, arguments))
                if repetition == 0:
                    digests[tool] = digest(state / "offline" / worker.TABLE, case)
        if len(set(digests.values())) != 1:
            raise SystemExit(f"the tools disagree on {case}: {digests}")
    return runs


def usable(tool: str, case: Case, arguments: argparse.Namespace) -> bool:
    match tool:
        case "days":
            return case.layout == "partitioned"
        case "spark" | "engine_spark":
            return arguments.spark_python is not None
        case _:
            return True


def copy(table: Path, to: Path) -> set[Path]:
    """Copies the log and links the data files, which nobody changes. Returns the copy's files."""
    shutil.copytree(table, to, copy_function=lambda file, link: (shutil.copy if "_delta_log" in file else os.link)(file, link))
    return files(to)


def files(folder: Path) -> set[Path]:
    return {file for file in folder.rglob("*") if file.is_file()}


def replace(tool: str, case: Case, state: Path, copied: set[Path], arguments: argparse.Namespace) -> Run:
    """Runs one tool. Peak memory is that of the largest process that the tool started, itself included."""
    os.sync()
    with open(state / "output", "w+") as output:
        started = time.monotonic()
        asked, environment = command(tool, case, state, arguments), os.environ | spark_environment(arguments)
        process = subprocess.Popen(asked, stdout=output, stderr=subprocess.STDOUT, env=environment)
        with peaks(process.pid) as peak_of_children:
            _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - started
        output.seek(0)
        said = output.read()
    if status != 0:
        raise SystemExit(f"{tool} failed on {case}:\n{said}")
    written = sum(file.stat().st_size for file in files(state / "offline" / worker.TABLE) - copied)
    peak = max(usage.ru_maxrss * 1024, peak_of_children[0])
    if tool in ("worker", "engine_spark"):
        return Run(seconds, peak, written, worker.rows_read(said))
    own = json.loads(said.splitlines()[-1])
    return Run(own["seconds"], max(peak, own.get("peak_bytes", 0)), written, None)


def command(tool: str, case: Case, state: Path, arguments: argparse.Namespace) -> list:
    layout = ["--partitioned"] if case.layout == "partitioned" else []
    what = [*layout, state / "offline" / worker.TABLE, state / "source", case.start.isoformat(), case.stop.isoformat()]
    match tool:
        case "worker":
            return worker.command(arguments.worker, state, case.start, case.stop, "DataFusion", arguments.memory)
        case "engine_spark":
            return worker.command(arguments.worker, state, case.start, case.stop, "Spark", arguments.spark_memory)
        case "spark":
            return [arguments.spark_python, HERE / "peer_spark.py", "--jars", arguments.spark_jars, *what]
        case "days":
            return [sys.executable, HERE / "peer_deltalake.py", "--reader", "duckdb", "--predicate", "date", *what]
        case reader:
            return [sys.executable, HERE / "peer_deltalake.py", "--reader", reader, *what]


def spark_environment(arguments: argparse.Namespace) -> dict[str, str]:
    """What the image with Spark says in variables."""
    if arguments.spark_python is None:
        return {}
    places = {"PYTHON": arguments.spark_python, "JARS": arguments.spark_jars, "APP": SPARK_APP}
    return {f"BACKFILL_SPARK_{name}": str(path) for name, path in places.items()}


@contextmanager
def peaks(process: int):
    """The most memory that one process below this one has used, in bytes, in a list of one. The kernel keeps it for those whose end
    somebody waits for, which Java's nobody does."""
    peak, ended = [0], threading.Event()

    def look() -> None:
        while not ended.wait(0.2):
            peak[0] = max(peak[0], *(peak_bytes(child) for child in children(process)), 0)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


def children(process: int) -> set[int]:
    """The processes below one that are there now."""
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    found, known = {process}, set()
    while found != known:
        known = set(found)
        found |= {child for child, parent in parents.items() if parent in known}
    return found - {process}


def peak_bytes(process: int) -> int:
    try:
        peak = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{process}/status").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(peak[1]) * 1024 if peak else 0


def digest(table: Path, case: Case) -> str:
    script = [sys.executable, HERE / "digest.py", table, case.start.isoformat(), case.stop.isoformat()]
    return subprocess.run(script, check=True, capture_output=True, text=True).stdout


def summary(runs: dict[str, list[Run]], days: int, replaced: int) -> list[list[str]]:
    """One line per tool: medians, and the seconds as a multiple of the worker's."""
    rows = []
    medians = {tool: statistics.median(run.seconds for run in of_tool) for tool, of_tool in runs.items()}
    for tool, of_tool in runs.items():
        seconds = [run.seconds for run in of_tool]
        ratio = f"{medians[tool] / medians['worker']:.1f} ×" if "worker" in medians else ""
        peak, written = (statistics.median(getattr(run, name) for run in of_tool) / 1e6 for name in ("peak_bytes", "bytes_written"))
        rows_read = of_tool[0].rows_read
        rows.append([
            days,
            TOOLS[tool],
            f"{medians[tool]:.2f}",
            ratio,
            len(seconds),
            f"{min(seconds):.2f}",
            f"{max(seconds):.2f}",
            f"{replaced / medians[tool]:,.0f}",
            f"{peak:.0f}",
            f"{written:.1f}",
            "" if rows_read is None else f"{rows_read:,}",
        ])
    return rows


if __name__ == "__main__":
    main()

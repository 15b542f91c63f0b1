"""Measures writing to Redis: the worker's compare-and-set, the server's ceiling and Feast's materialize, each on a server of its
own in one run, and keeps the result in docs/benchmarks.md."""

import argparse
import json
import shlex
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from report import keep, machine, table

HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bench", required=True, help="the built benchmark `online` of the worker")
    parser.add_argument("--feast-python", required=True, help="a Python with Feast")
    parser.add_argument("--entities", type=int, default=1_000_000)
    parser.add_argument("--feast-entities", type=int, default=200_000)
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    rates: dict[str, list[int]] = {}
    for _ in range(arguments.repeat):
        with redis() as port:
            ours = run([arguments.bench, f"redis://127.0.0.1:{port}/0", str(arguments.entities)])
        with redis() as port:
            feast = run([arguments.feast_python, HERE / "feast_materialize.py", f"127.0.0.1:{port}", str(arguments.feast_entities)])
        for name, rate in [*ours["per second"].items(), ("Feast materialize", feast["per second"])]:
            rates.setdefault(name, []).append(rate)
    ceiling = statistics.median(rates["pipelined HSET"])
    rows = [
        [name, f"{statistics.median(found):,.0f}", f"{min(found):,}", f"{max(found):,}", f"{statistics.median(found) / ceiling:.2f}"]
        for name, found in rates.items()
    ]
    keep("online", [
        f"`{shlex.join(['make', 'bench-online'])}`, {arguments.entities:,} entities (Feast: {arguments.feast_entities:,}), "
        f"{arguments.repeat} runs, {machine()}",
        "",
        *table(["what", "entities/s, median", "from", "to", "of the ceiling"], rows),
    ])


def run(command: list) -> dict:
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


@contextmanager
def redis():
    """A server without persistence on a free port of the loopback interface."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", folder]
        server = subprocess.Popen(["redis-server", *options, "--maxmemory-policy", "noeviction"], stdout=subprocess.DEVNULL)
        try:
            wait_for(port)
            yield port
        finally:
            server.terminate()
            server.wait()


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    sys.exit("redis-server did not answer within 20 s")


if __name__ == "__main__":
    main()

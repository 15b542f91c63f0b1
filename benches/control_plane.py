"""Measures the operator on a real control plane with played pods, with the controllers' rates raised and as Kubernetes ships them, and
keeps the result in docs/benchmarks.md. `make bench-operator` builds what it needs."""

import argparse
import subprocess
from pathlib import Path

from report import keep, machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bench", type=Path, required=True, help="the built benchmark `operator`")
    parser.add_argument("--backfills", type=int, default=10_000)
    parser.add_argument("--sets", type=int, default=1_000)
    parser.add_argument("--slots", type=int, default=200, help="how many backfills of the store may run at once")
    parser.add_argument("--finish", type=int, default=2_000, help="how many of them are waited for")
    parser.add_argument("--shipped-backfills", type=int, default=500, help="how many with the controllers as shipped")
    parser.add_argument("--keep", action=argparse.BooleanOptionalAction, default=True, help="keep the result in docs/benchmarks.md")
    arguments = parser.parse_args()
    raised = run(arguments.bench, arguments.backfills, arguments.sets, arguments.slots, arguments.finish)
    few = arguments.shipped_backfills
    shipped = run(arguments.bench, few, min(arguments.sets, few), arguments.slots, few, "as-shipped")
    lines = [f"`make bench-operator` on {machine()}, which the whole control plane shares", "", *listed(raised), "", *listed(shipped)]
    keep("operator", lines) if arguments.keep else print("\n".join(lines))


def run(*command) -> list[str]:
    done = subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.splitlines()


def listed(said: list[str]) -> list[str]:
    """The first line says what was run, each other one a figure."""
    return [said[0][0].upper() + said[0][1:] + ":", "", *(f"- {line}" for line in said[1:])]


if __name__ == "__main__":
    main()

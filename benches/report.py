"""Keeps measured tables in docs/benchmarks.md: each between two comments that name it, so that one can be measured again alone."""

import re
from pathlib import Path

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"


def keep(section: str, lines: list[str]) -> None:
    """Prints the lines and puts them in the place of the section's former ones."""
    text = "\n".join(lines)
    print(text)
    begin, end = f"<!-- begin {section} -->", f"<!-- end {section} -->"
    place = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    document = DOCUMENT.read_text()
    assert place.search(document), f"{DOCUMENT} has no section {section}"
    DOCUMENT.write_text(place.sub(lambda _: f"{begin}\n{text}\n{end}", document))


def table(header: list[str], rows: list[list]) -> list[str]:
    return [f"| {' | '.join(map(str, cells))} |" for cells in (header, ["---"] * len(header), *rows)]


def machine() -> str:
    cores = Path("/proc/cpuinfo").read_text().count("processor\t:")
    memory_kib = int(re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())[1])
    return f"{cores} cores, {memory_kib / 2**20:.0f} GiB"

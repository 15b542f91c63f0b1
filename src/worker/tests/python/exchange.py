"""How the scripts of this folder talk to the tests: one JSON request on standard input, JSON lines on standard output.

JSON cannot carry every value, so values travel in a form that loses nothing:

    float64, float32   the bits of the number, 16 or 8 hexadecimal digits (so NaN, infinities and -0.0 are told apart)
    timestamp          microseconds since 1970-01-01T00:00:00Z
    date               YYYY-MM-DD
    bytes              hexadecimal digits
    list               a list of the above
    others             as in JSON
"""

import json
import os
import struct
import sys
from datetime import date, datetime, timedelta, timezone

import pyarrow as pa

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
MICROSECOND = timedelta(microseconds=1)


def request() -> dict:
    return json.load(sys.stdin)


def run(main) -> None:
    """Runs a script and ends it at once: threads of the libraries would otherwise abort the interpreter on its way out, now and then."""
    main()
    sys.stdout.flush()
    os._exit(0)


def answer(line: dict) -> None:
    print(json.dumps(line, ensure_ascii=False))


def answer_rows(table: pa.Table) -> None:
    """One line per row, one field per column."""
    for row in rows_of(table):
        answer(row)


def rows_of(table: pa.Table) -> list[dict]:
    columns = [[encode(value, field.type) for value in table[field.name].to_pylist()] for field in table.schema]
    return [dict(zip(table.column_names, row)) for row in zip(*columns)]


def encode(value, kind: pa.DataType):
    if value is None:
        return None
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return [encode(element, kind.value_type) for element in value]
    if pa.types.is_float64(kind):
        return double_bits(value)
    if pa.types.is_float32(kind):
        return float_bits(value)
    if isinstance(value, datetime):
        return microseconds(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    return value


def double_bits(value: float) -> str:
    return struct.pack(">d", value).hex()


def float_bits(value: float) -> str:
    return struct.pack(">f", value).hex()


def microseconds(instant: datetime) -> int:
    return ((instant if instant.tzinfo else instant.replace(tzinfo=timezone.utc)) - EPOCH) // MICROSECOND


def instant(micros: int) -> datetime:
    return EPOCH + micros * MICROSECOND

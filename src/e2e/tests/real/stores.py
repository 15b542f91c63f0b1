"""The stores of a real cluster, reached from outside by other clients than ours. Request, with {"s3": {…}} as deltalake's storage options:

    {"what": "put", "s3": …, "uri": "s3://bucket/raw.parquet", "rows": [{"user_id": 1, "t": MICROSECONDS, …}]}
    {"what": "put", "s3": …, "uri": "s3://bucket/raw.parquet", "file": PATH}    as it is; both create the bucket, too
    {"what": "put_many", "s3": …, "uri": "s3://bucket/raw/", …}     generated rows, see `put_many`
    {"what": "rows", "s3": …, "table": URI}                         one line per row of the newest version
    {"what": "sums", "s3": …, "table": URI, "interval": [MICROSECONDS, MICROSECONDS]}    see `sums`
    {"what": "history", "s3": …, "table": URI}                      one line per commit, oldest first
    {"what": "watch", "s3": …, "table": URI, "redis": {…}, …}       see `watch`

All columns are int64, but `t`, which is in microseconds.
"""

import json
import select
import sys
import time

import mmh3
import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import redis
from deltalake import DeltaTable
from pyarrow.fs import S3FileSystem

from exchange import answer, answer_rows, run


def main() -> None:
    # Not all of the input: `watch` ends with it.
    asked = json.loads(sys.stdin.readline())
    match asked["what"]:
        case "put":
            put(asked)
        case "put_many":
            put_many(asked)
        case "sums":
            answer(sums(asked))
        case "rows":
            answer_rows(open_table(asked).to_pyarrow_table())
        case "history":
            for commit in reversed(open_table(asked).history()):
                answer(commit)
        case "watch":
            watch(asked)
        case what:
            raise SystemExit(f'unknown "what": {what!r}')


def open_table(asked: dict) -> DeltaTable:
    return DeltaTable(asked["table"], storage_options=asked["s3"])


def file_system(asked: dict) -> S3FileSystem:
    settings = asked["s3"]
    scheme, _, host = settings["aws_endpoint"].partition("://")
    return S3FileSystem(
        access_key=settings["aws_access_key_id"],
        secret_key=settings["aws_secret_access_key"],
        region=settings["aws_region"],
        endpoint_override=host,
        scheme=scheme,
        allow_bucket_creation=True,
    )


def put(asked: dict) -> None:
    path = asked["uri"].removeprefix("s3://")
    files = file_system(asked)
    files.create_dir(path.split("/")[0])
    if "file" in asked:
        with open(asked["file"], "rb") as source, files.open_output_stream(path) as target:
            target.write(source.read())
        return
    names = asked["rows"][0].keys()
    columns = {name: pa.array([row[name] for row in asked["rows"]], pa.int64()) for name in names}
    columns["t"] = columns["t"].cast(pa.timestamp("us", tz="UTC"))
    parquet.write_table(pa.table(columns), path, filesystem=files)


def put_many(asked: dict) -> None:
    """Puts `files` files with about `rows` rows of the month that begins at `start`: users 1 to `users` in turn, at times that differ by
    the same distance. Even users have no rows in the last third, as in data.rs. All have this `version`."""
    path, files = asked["uri"].removeprefix("s3://"), file_system(asked)
    files.create_dir(path.split("/")[0])
    rows, users, version, month = asked["rows"], asked["users"], asked["version"], 31 * 86_400_000_000
    for number in range(asked["files"]):
        i = np.arange(rows * number // asked["files"], rows * (number + 1) // asked["files"], dtype=np.int64)
        user = i % users + 1
        i = i[(user % 2 == 1) | (i * 31 < rows * asked["evenDays"])]
        versions = np.full(len(i), version, np.int64)
        columns = {"user_id": i % users + 1, "t": asked["start"] + i * (month // rows), "version": versions, "twin": versions}
        table = pa.table(columns)
        table = table.set_column(1, "t", table["t"].cast(pa.timestamp("us", tz="UTC")))
        parquet.write_table(table, f"{path}{number:04}.parquet", filesystem=files)


def sums(asked: dict) -> dict:
    """What the table holds outside and inside the interval: how many rows, sums of users and times by which rows that were lost or
    doubled show themselves, which versions, and how many rows are mixed of two."""
    start, stop = asked["interval"]
    found = {place: {"rows": 0, "users": 0, "times": 0, "versions": set(), "mixed": 0} for place in ["outside", "inside"]}
    for batch in open_table(asked).to_pyarrow_dataset().to_batches(columns=["user_id", "t", "version", "twin"]):
        columns = [batch.column("t").cast(pa.timestamp("us")).cast(pa.int64()), *map(batch.column, ["user_id", "version", "twin"])]
        t, user, version, twin = (column.to_numpy(zero_copy_only=False) for column in columns)
        inside = (t >= start) & (t < stop)
        for place, chosen in [("outside", ~inside), ("inside", inside)]:
            sum_of = found[place]
            sum_of["rows"] += int(chosen.sum())
            sum_of["users"] += int(user[chosen].sum())
            # Squares: two rows whose times moved against each other are seen, too.
            sum_of["times"] = (sum_of["times"] + int(((t[chosen] // 1000 % 1_000_003) ** 2).sum())) % (1 << 62)
            sum_of["versions"] |= set(np.unique(version[chosen]).tolist())
            sum_of["mixed"] += int((version[chosen] != twin[chosen]).sum())
    return {place: {**sum_of, "versions": sorted(sum_of["versions"])} for place, sum_of in found.items()}


def watch(asked: dict) -> None:
    """Reads both stores again and again until standard input ends, and tells what no reader may see. Prints "watching" after the first
    round, and at the end {"offline": READS, "online": READS, "wrong": [SENTENCE, …]}.

    `interval` are the bounds that are replaced, in microseconds; `rows` counts the rows outside and inside: {"outside": N, "inside": M}.
    `entities` are those that have an online row before and after. Rows carry `version` and `twin`, which must be equal (one row is
    one row); of the rows inside a snapshot all have the same version.
    """
    online = redis.Redis(host=asked["redis"]["host"], port=asked["redis"]["port"], socket_timeout=2)
    view, wrong, reads, newest = asked["redis"]["view"], [], {"offline": 0, "online": 0}, {}
    lenient = asked.get("lenient", False)
    fields = feature_fields(view, ["version", "twin"])
    offline_at, started = 0.0, False
    while not ended():
        for entity, values in (tolerant(lambda: served(online, asked, fields), lenient) or {}).items():
            reads["online"] += 1
            judge_online(entity, values, newest, wrong)
        if time.monotonic() - offline_at > 1:
            offline_at = time.monotonic()
            rows = tolerant(lambda: open_table(asked).to_pyarrow_table(columns=["t", "version", "twin"]).to_pydict(), lenient)
            if rows is not None:
                reads["offline"] += 1
                judge_offline(asked, rows, wrong)
        if not started:
            started = True
            answer("watching")
            sys.stdout.flush()
    answer({**reads, "wrong": wrong[:20]})


def ended() -> bool:
    return bool(select.select([sys.stdin], [], [], 0.03)[0])


def served(online, asked: dict, fields: list[bytes]) -> dict:
    """What each entity is served now; the reads share a way, but each is one of its own."""
    pipeline = online.pipeline(transaction=False)
    for key in asked["entities"].values():
        pipeline.hmget(bytes.fromhex(key), fields)
    return dict(zip(asked["entities"], pipeline.execute()))


def tolerant(read, lenient: bool):
    """What was read; None for a store that does not answer, where a test has stopped it."""
    try:
        return read()
    except Exception:
        if lenient:
            return None
        raise


def feature_fields(view: str, names: list[str]) -> list[bytes]:
    return [mmh3.hash(f"{view}:{name}", seed=0, signed=False).to_bytes(4, "little") for name in names]


def judge_online(entity: str, values: list, newest: dict, wrong: list) -> None:
    if any(value is None for value in values):
        wrong.append(f"entity {entity} was missing")
        return
    # A protobuf value of Feast: field 4 (int64), as a varint.
    version, twin = (number(value) for value in values)
    if version != twin:
        wrong.append(f"entity {entity} was mixed of versions {version} and {twin}")
    if version < newest.get(entity, version):
        wrong.append(f"entity {entity} went back from version {newest[entity]} to {version}")
    newest[entity] = version


def number(value: bytes) -> int:
    result = 0
    for shift, byte in enumerate(value[1:]):
        result |= (byte & 127) << (7 * shift)
    return result


def judge_offline(asked: dict, rows: dict, wrong: list) -> None:
    start, stop = asked["interval"]
    inside, outside = set(), 0
    inside_count = 0
    for t, version, twin in zip(rows["t"], rows["version"], rows["twin"]):
        micros = int(t.timestamp() * 1_000_000)
        if version != twin:
            wrong.append(f"a row at {t} was mixed of versions {version} and {twin}")
        if start <= micros < stop:
            inside.add(version)
            inside_count += 1
        else:
            outside += 1
            if version != asked["outsideVersion"]:
                wrong.append(f"a row outside at {t} had version {version}")
    if len(inside) != 1 or inside_count != asked["rows"]["inside"]:
        wrong.append(f"a snapshot had {inside_count} rows of versions {sorted(inside)} inside")
    if outside != asked["rows"]["outside"]:
        wrong.append(f"a snapshot had {outside} rows outside")


if __name__ == "__main__":
    run(main)

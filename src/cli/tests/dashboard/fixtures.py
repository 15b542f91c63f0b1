"""Snapshots as the dashboard's server makes them: the API's objects, with the operator's own words.

Pure and deterministic: the same call gives the same snapshot. Nothing here knows the page or a browser.
"""

import copy
import hashlib
import random
from datetime import datetime, timedelta, timezone

NOW = datetime(2024, 6, 18, 9, 30, tzinfo=timezone.utc)
NAMESPACE = "prod"
XSS_COMMENT = "<img src=x onerror=alert(1)>"
XSS_NAME = "it's-\"quoted\"-<b>bold</b>"


# ── Times and keys ──


def show(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def day(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc)


def ago(**span) -> datetime:
    return NOW - timedelta(**span)


def digest(*words) -> str:
    return hashlib.sha256("\n".join(map(str, words)).encode()).hexdigest()


# ── Feature sets ──


def feature_set(name, *, coverage=(), ledger=(), active=None, start="2023-01-01", every="1d", namespace=NAMESPACE, online=True, ready=True):
    spec = {
        "entities": [{"name": "carrier", "type": "string"}],
        "timestampColumn": "day",
        "features": [{"name": "flights", "type": "int64"}, {"name": "mean_delay", "type": "float64"}],
        "sources": [{"name": "flights", "parquet": {"uri": f"s3://lake/{name}/"}}],
        "transformation": {"sql": "SELECT carrier, day, flights, mean_delay FROM flights WHERE at >= $start AND at < $stop"},
        "windows": {"every": every, "stamp": "Start"},
        "backfill": {"startTime": start, "clusterTemplate": "medium"} if start else {"clusterTemplate": "medium"},
    }
    if not online:
        spec["online"] = {"enabled": False}
    condition = {"type": "Ready", "status": "True", "reason": "Accepted", "message": "the definition is valid"}
    if not ready:
        condition |= {"status": "False", "reason": "StoreNotFound", "message": 'no feature store "default" in this namespace'}
    status = {
        "observedGeneration": 3,
        "conditions": [condition | {"lastTransitionTime": show(ago(days=200)), "observedGeneration": 3}],
        "ledger": list(ledger),
        "coverage": [{"start": show(day(a)), "stop": show(day(b))} for a, b in coverage],
    }
    if ledger:
        status["offlineVersion"] = max(entry["version"] for entry in ledger)
    if active:
        status["active"] = {"uid": uid(active), "name": active, "since": show(ago(minutes=12))}
    metadata = {"name": name, "namespace": namespace, "creationTimestamp": show(ago(days=200))}
    return {"apiVersion": "featureset.dev/v1alpha1", "kind": "FeatureSet", "metadata": metadata, "spec": spec, "status": status}


def uid(name):
    text = digest("uid", name)
    return "-".join([text[:8], text[8:12], text[12:16], text[16:20], text[20:32]])


def entry(backfill, start, stop, version, at, *, online=True, reset=False, undo=False, comment=None):
    """What the ledger keeps of one replacement."""
    span = {"start": show(day(start)), "stop": show(day(stop))}
    made = {"backfill": backfill, "key": digest("key", backfill), "version": version, "online": online, "definition": digest("definition")[:16], "at": show(at)}
    if not reset:
        made |= span
    if not undo:
        made["filled"] = span
    if comment:
        made["comment"] = comment
    return made


# ── Backfills ──


def condition(kind, status, reason, message, at):
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": show(at), "observedGeneration": 1}


def replaced(offline, online, reason, message, at, stores="Both"):
    """The two conditions about the stores."""
    found = []
    for kind, store, done, good, words in (
        ("OfflineReplaced", "Offline", offline, "Replaced", "the offline table holds the new rows"),
        ("OnlineReplaced", "Online", online, "Reconciled", "the online store agrees with the offline table"),
    ):
        if stores not in ("Both", store):
            found.append(condition(kind, "False", "Skipped", "not part of this backfill", at))
        elif done:
            found.append(condition(kind, "True", good, words, at))
        else:
            found.append(condition(kind, "False", reason, message, at))
    return found


ACCEPTED = ("Accepted", "True", "Accepted", "the request is valid")


def going(reason, message, created, *, resolved=True, offline=False, stores="Both", suspended=False):
    kind = "Suspended" if suspended else "Reconciling"
    found = [condition(word, "False", reason, message, created) for word in ("Ready", "Complete", "Failed")]
    found += [condition(kind, "True", reason, message, created), condition(*ACCEPTED, created)]
    return found + (replaced(offline, False, reason, message, created + timedelta(minutes=4), stores) if resolved else [])


def missing(reason, message, created, stalled):
    found = [condition(word, "False", reason, message, created) for word in ("Ready", "Complete", "Failed", "Accepted")]
    return found + [condition("Stalled" if stalled else "Reconciling", "True", reason, message, created + timedelta(minutes=10 if stalled else 0))]


def succeeded(message, created, ended, stores="Both", reason="Succeeded"):
    good = [("Ready", "True", ended), ("Complete", "True", ended), ("Failed", "False", created)]
    found = [condition(kind, status, reason, message, at) for kind, status, at in good]
    return found + [condition(*ACCEPTED, created)] + replaced(True, True, reason, message, ended - timedelta(seconds=40), stores)


def planned(message, created, ended):
    found = [condition("Ready", "True", "Planned", message, ended)]
    found += [condition(kind, "False", "Planned", message, created) for kind in ("Complete", "Failed")]
    return found + [condition(*ACCEPTED, created)] + replaced(False, False, "Planned", message, created)


def ended_badly(reason, message, created, ended, *, offline=False, accepted=True, stores="Both"):
    bad = [("Ready", "False", created), ("Stalled", "True", ended), ("Complete", "False", created), ("Failed", "True", ended)]
    found = [condition(kind, status, reason, message, at) for kind, status, at in bad]
    if not accepted:
        return found + [condition("Accepted", "False", reason, message, ended)]
    return found + [condition(*ACCEPTED, created)] + replaced(offline, False, reason, message, ended - timedelta(minutes=2), stores)


def pinned(name, created, start=None, stop=None, *, mode="Apply", stores="Both", windows=31, warnings=()):
    made = {
        "key": digest("key", name), "mode": mode, "stores": stores, "now": show(created + timedelta(seconds=2)),
        "definition": digest("definition")[:16], "deadlineSeconds": 21600, "clusterTemplate": "medium", "featureSetGeneration": 3, "windows": windows,
    }
    if start:
        made["interval"] = {"start": show(day(start)), "stop": show(day(stop))}
    if warnings:
        made["warnings"] = [{"reason": reason, "message": message} for reason, message in warnings]
    return made


def offline_report(removed, written, started, *, before=17, after=18, windows=31, published=True, unchanged=None):
    report = {
        "rowsRemoved": removed, "rowsWritten": written, "rowsRescued": written // 190, "rowsOutside": written // 400, "rowsNullKey": 0,
        "rowsDuplicate": 0, "rowsRead": removed + written // 190, "windows": windows,
        "guards": [
            {"name": "nullKeys", "verdict": "Passed", "message": "0 rows lack a key or the event time"},
            {"name": "duplicates", "verdict": "Passed", "message": "none"},
            {"name": "rowsOutside", "verdict": "Passed", "message": f"{written // 400} rows lie outside the interval or their window and were dropped"},
            {"name": "shrink", "verdict": "Passed", "message": f"{written} rows replace {removed}; a shrink by up to 50 % is allowed"},
            {"name": "delay_is_sane", "verdict": "Warned", "message": f"3 of {written} rows violate the check \"delay_is_sane\": mean_delay < 1440"},
        ],
        "startedAt": show(started),
    }
    if before is not None:
        report["versionBefore"] = before
    if unchanged is not None:
        report["rowsUnchanged"] = unchanged
    if published:
        rescued = report["rowsRescued"]
        report |= {"versionAfter": after, "finishedAt": show(started + timedelta(minutes=3, seconds=12)), "filesAdded": windows + 2, "filesRemoved": windows + 1, "bytesWritten": written * 41}
        report["proof"] = {
            "verdict": "Passed" if before is not None else "NotApplicable", "filesUntouched": 360, "rowsOutsideBefore": rescued, "rowsOutsideAfter": rescued,
            "hashBefore": digest(started)[:32], "hashAfter": digest(started)[:32],
        }
    return report


def online_report(entities, started, *, version=18):
    return {
        "entitiesUpdated": entities, "entitiesRemoved": entities // 50, "entitiesKeptNewer": entities // 3, "entitiesKeptLive": 2, "entitiesUnchanged": entities // 9,
        "duplicatesAtRest": 0, "rowsLookedUp": entities * 3, "entitiesVerified": entities, "version": version,
        "startedAt": show(started), "finishedAt": show(started + timedelta(seconds=48)),
    }


def attempt(name, step, number, started, ended=None):
    made = {"step": step, "attempt": number, "job": f"{name[:30]}-{step}-{digest(name, step, number)[:10]}", "startedAt": show(started)}
    return made | ({"ended": ended} if ended else {})


def backfill(name, set_name, created, spec, phase, conditions, *, namespace=NAMESPACE, **status):
    full = {"observedGeneration": 1, "phase": phase, "conditions": conditions} | status
    return {
        "apiVersion": "featureset.dev/v1alpha1", "kind": "FeatureSetBackfill",
        "metadata": {"name": name, "namespace": namespace, "uid": uid(name), "creationTimestamp": show(created), "generation": 1},
        "spec": {"featureSet": set_name} | spec,
        "status": full,
    }


def complete(name, set_name, start, stop, created, version, *, rows=182_400, entities=1_420, reset=False, undo=None, stores="Both", comment=None, namespace=NAMESPACE):
    """An ended backfill and its line of the ledger."""
    spec = {"undo": undo} if undo else {"startTime": start, "stopTime": stop} | ({"reset": True} if reset else {})
    if stores != "Both":
        spec["stores"] = [stores]
    if comment:
        spec["comment"] = comment
    ended = created + timedelta(minutes=6)
    status = {"resolved": pinned(name, created, start, stop, stores=stores)}
    words = []
    if stores != "Online":
        status["offline"] = offline_report(rows - 1_300, rows, created + timedelta(minutes=1), before=version - 1 or None, after=version)
        words.append(f"{rows - 1300} rows replaced by {rows} in version {version}")
    if stores != "Offline":
        status["online"] = online_report(entities, created + timedelta(minutes=5), version=version)
        words.append(f"{entities} entities updated and {entities // 50} removed online")
    status["attempts"] = [attempt(name, "offline", 1, created + timedelta(seconds=20), "Replaced"), attempt(name, "online", 1, created + timedelta(minutes=4), "Reconciled")]
    made = backfill(name, set_name, created, spec, "Complete", succeeded("; ".join(words), created, ended, stores), namespace=namespace, **status)
    line = entry(name, start, stop, version, ended, online=stores != "Offline", reset=reset, undo=bool(undo), comment=comment)
    return made, line


# ── Snapshots ──


def snapshot(sets, backfills, *, namespace=NAMESPACE, context="gke_acme_europe-west4_prod"):
    return {"generatedAt": show(NOW), "context": context, "namespace": namespace, "featureSets": sets, "backfills": backfills}


def empty():
    """Nothing at all."""
    return snapshot([], [])


def fresh():
    """Feature sets, and nothing replaced yet."""
    return snapshot([feature_set("carrier-delays"), feature_set("weather-hourly", start=None, every="1h")], [])


def running():
    """A busy day: every phase that is not a failure."""
    reset, reset_line = complete("carrier-delays-2023", "carrier-delays", "2023-01-01", "2024-01-01", ago(days=160), 1, rows=2_204_100, reset=True, comment="first load of 2023")
    january, january_line = complete("carrier-delays-january", "carrier-delays", "2024-01-01", "2024-04-01", ago(days=78), 4, rows=540_020)
    february, february_line = complete("carrier-delays-february", "carrier-delays", "2024-02-01", "2024-03-01", ago(days=40), 9, comment="February: only flights that left, early departures count as punctual")
    april, april_line = complete("carrier-delays-april", "carrier-delays", "2024-04-01", "2024-06-01", ago(days=16), 14, rows=361_000)
    gone_line = entry("carrier-delays-hotfix", "2023-09-10", "2023-10-20", 6, ago(days=60), comment="the object was deleted; the ledger remembers")
    may = backfill(
        "carrier-delays-may", "carrier-delays", ago(minutes=13), {"startTime": "2024-05-01", "stopTime": "2024-06-01", "clusterTemplate": "large", "comment": "the carrier's May file was late"},
        "Running", going("Running", "the offline step runs", ago(minutes=13)),
        resolved=pinned("carrier-delays-may", ago(minutes=12), "2024-05-01", "2024-06-01", warnings=[("PartialWindows", "the boundaries lie between ticks of the feature set's windows; partial: [2024-05-31T00:00:00Z, 2024-06-01T00:00:00Z)")]),
        progress={"stage": "staging", "done": 12, "total": 31, "rows": 74_310}, held={"since": show(ago(minutes=12)), "secondsBefore": 0},
        attempts=[attempt("carrier-delays-may", "offline", 1, ago(minutes=12), "Unavailable"), attempt("carrier-delays-may", "offline", 2, ago(minutes=8))],
    )
    queued = backfill(
        "carrier-delays-q1-again", "carrier-delays", ago(minutes=4), {"startTime": "2024-01-01", "stopTime": "2024-03-15"},
        "Queued", going("Queued", 'number 1 in the queue of feature set "carrier-delays", held by "carrier-delays-may"', ago(minutes=4), resolved=False),
    )

    clicks, clicks_line = complete("user-clicks-all", "user-clicks", "2023-06-01", "2024-06-10", ago(days=8), 3, rows=48_120_400, entities=812_000, reset=True)
    wrong, wrong_line = complete("user-clicks-bots", "user-clicks", "2024-03-01", "2024-04-15", ago(days=5), 4, rows=5_100_000, comment="bots filtered by the new list")
    undone, undone_line = complete("undo-user-clicks-bots", "user-clicks", "2024-03-01", "2024-04-15", ago(days=4), 5, rows=5_660_000, undo="user-clicks-bots", comment="the list was wrong")
    online = backfill(
        "user-clicks-june", "user-clicks", ago(minutes=9), {"startTime": "2024-06-01"}, "Running",
        going("Running", "the online step runs", ago(minutes=9), offline=True),
        resolved=pinned("user-clicks-june", ago(minutes=9), "2024-06-01", "2024-06-18", windows=17), offline=offline_report(1_900_200, 2_010_455, ago(minutes=8), before=5, after=6, windows=17),
        progress={"stage": "online", "done": 171, "total": 256, "rows": 301_222}, held={"since": show(ago(minutes=9)), "secondsBefore": 0},
        attempts=[attempt("user-clicks-june", "offline", 1, ago(minutes=9), "Replaced"), attempt("user-clicks-june", "online", 1, ago(minutes=3))],
    )

    risk, risk_line = complete("device-risk-seed", "device-risk", "2024-01-01", "2024-05-01", ago(days=45), 1, rows=9_300_000, entities=40_200)
    rebuilt, rebuilt_line = complete("device-risk-online", "device-risk", "2024-04-01", "2024-05-01", ago(days=20), 1, entities=40_200, stores="Online", comment="Redis was replaced")
    plan = backfill(
        "device-risk-plan", "device-risk", ago(hours=3), {"startTime": "2024-04-01", "stopTime": "2024-05-01", "mode": "Plan"}, "Planned",
        planned("2310000 rows would be replaced by 2318220; set spec.mode to Apply to publish", ago(hours=3), ago(hours=2)),
        resolved=pinned("device-risk-plan", ago(hours=3), "2024-04-01", "2024-05-01", mode="Plan"), offline=offline_report(2_310_000, 2_318_220, ago(hours=3), published=False, unchanged=2_309_110),
        attempts=[attempt("device-risk-plan", "offline", 1, ago(hours=3), "Planned")],
    )
    held = backfill(
        "device-risk-may", "device-risk", ago(hours=5), {"startTime": "2024-05-01", "stopTime": "2024-06-01", "suspend": True}, "Suspended",
        going("Suspended", "spec.suspend is set; what is staged is kept, and others may have the feature set", ago(hours=5), suspended=True),
        resolved=pinned("device-risk-may", ago(hours=5), "2024-05-01", "2024-06-01"), held={"secondsBefore": 1520},
        attempts=[attempt("device-risk-may", "offline", 1, ago(hours=5), "Suspended")],
    )

    spend, spend_line = complete("merchant-spend-2024", "merchant-spend", "2024-01-01", "2024-06-01", ago(days=17), 2, rows=77_100, stores="Offline")
    starting = backfill(
        "merchant-spend-week", "merchant-spend", ago(seconds=40), {"startTime": "2024-06-01", "stopTime": "2024-06-08"}, "Starting",
        going("Unschedulable", "the offline step waits: pod merchant-spend-week-offline-0: 0/6 nodes are available: 6 Insufficient memory.", ago(seconds=40)),
        resolved=pinned("merchant-spend-week", ago(seconds=30), "2024-06-01", "2024-06-08", stores="Offline", windows=7), attempts=[attempt("merchant-spend-week", "offline", 1, ago(seconds=30))],
    )

    weather, weather_line = complete("weather-hourly-2024", "weather-hourly", "2024-01-01", "2024-06-01", ago(days=12), 1, rows=1_070_000, entities=310)
    settling = backfill(
        "weather-hourly-april", "weather-hourly", ago(hours=1), {"startTime": "2024-04-01", "stopTime": "2024-05-01", "cancel": True}, "Settling",
        going("Settling", "spec.cancel was set; what it left is being removed", ago(hours=1)),
        resolved=pinned("weather-hourly-april", ago(hours=1), "2024-04-01", "2024-05-01", windows=720), broken={"reason": "Cancelled", "message": "spec.cancel was set", "at": show(ago(minutes=1)), "settle": True},
        attempts=[attempt("weather-hourly-april", "offline", 1, ago(hours=1), "Cancelled"), attempt("weather-hourly-april", "settle", 1, ago(minutes=1))],
    )
    stalled = backfill(
        "weather-hourly-typo", "weather-hourly", ago(hours=2), {"startTime": "2024-05-20", "clusterTemplate": "mediun"}, "Stalled",
        missing("ClusterTemplateNotFound", 'no cluster template "mediun"; did you mean "medium"?', ago(hours=2), True),
    )
    waiting = backfill(
        "weather-hourly-june", "weather-hourly", ago(minutes=2), {"startTime": "2024-06-01"}, "Waiting",
        missing("SourceFeatureSetNotFound", 'feature set "weather-hourly": spec.sources: source "stations": no feature set "stations" in "prod"', ago(minutes=2), False),
    )
    unseen = backfill("orphan-first", "no-such-set", ago(seconds=1), {"reset": True}, None, [])
    unseen["status"] = {"observedGeneration": -1}

    sets = [
        feature_set("carrier-delays", coverage=[("2023-01-01", "2024-06-01")], ledger=[april_line, february_line, gone_line, january_line, reset_line], active="carrier-delays-may"),
        feature_set("user-clicks", coverage=[("2023-06-01", "2024-06-18")], ledger=[undone_line, wrong_line, clicks_line], active="user-clicks-june"),
        feature_set("device-risk", coverage=[("2024-01-01", "2024-05-01")], ledger=[rebuilt_line, risk_line]),
        feature_set("merchant-spend", coverage=[("2024-01-01", "2024-06-01")], ledger=[spend_line], active="merchant-spend-week", online=False),
        feature_set("weather-hourly", coverage=[("2023-03-01", "2023-07-01"), ("2024-01-01", "2024-06-01")], ledger=[weather_line], active="weather-hourly-april", every="1h"),
        feature_set("session-length", ready=False),
    ]
    backfills = [reset, january, february, april, may, queued, clicks, wrong, undone, online, risk, rebuilt, plan, held, spend, starting, weather, settling, stalled, waiting, unseen]
    return snapshot(sets, backfills)


def failed():
    """Everything that can go wrong, and texts that try to be markup."""
    seed, seed_line = complete("carrier-delays-seed", "carrier-delays", "2024-01-01", "2024-06-01", ago(days=30), 1, rows=900_000, comment=XSS_COMMENT)
    shrink_message = "112 rows replace 41200; a shrink by up to 50 % is allowed; check the sources, or raise guards.maxShrinkPercent"
    shrink = backfill(
        "carrier-delays-shrinks", "carrier-delays", ago(days=2), {"startTime": "2024-03-01", "stopTime": "2024-04-01", "comment": "source moved to the new bucket", "sources": [{"name": "flights", "parquet": {"uri": "s3://lake-new/flights/"}}]},
        "Failed", ended_badly("ShrinkGuard", shrink_message, ago(days=2), ago(days=1, hours=23)), resolved=pinned("carrier-delays-shrinks", ago(days=2), "2024-03-01", "2024-04-01"),
        attempts=[attempt("carrier-delays-shrinks", "offline", 1, ago(days=2), "ShrinkGuard")],
    )
    half_message = "the online store is out of memory: OOM command not allowed when used memory > 'maxmemory'; free memory, then rebuild with stores [Online]"
    half_line = entry("carrier-delays-may", "2024-05-01", "2024-06-01", 2, ago(hours=7), online=False)
    half = backfill(
        "carrier-delays-may", "carrier-delays", ago(hours=8), {"startTime": "2024-05-01", "stopTime": "2024-06-01"},
        "Failed", ended_badly("OnlineOutOfMemory", half_message, ago(hours=8), ago(hours=7), offline=True), resolved=pinned("carrier-delays-may", ago(hours=8), "2024-05-01", "2024-06-01"),
        offline=offline_report(180_000, 182_000, ago(hours=8), before=1, after=2),
        attempts=[attempt("carrier-delays-may", "offline", 1, ago(hours=8), "Replaced")] + [attempt("carrier-delays-may", "online", n, ago(hours=7, minutes=50 - 12 * n), "OnlineOutOfMemory") for n in (1, 2, 3)],
    )
    cancelled = backfill(
        "carrier-delays-mistake", "carrier-delays", ago(hours=30), {"reset": True, "cancel": True, "comment": "wrong set, sorry"},
        "Cancelled", ended_badly("Cancelled", "spec.cancel was set", ago(hours=30), ago(hours=29)), resolved=pinned("carrier-delays-mistake", ago(hours=30), "2023-01-01", "2024-06-17"),
        attempts=[attempt("carrier-delays-mistake", "offline", 1, ago(hours=30), "Cancelled"), attempt("carrier-delays-mistake", "settle", 1, ago(hours=29), "Settling")],
    )
    rejected = backfill(
        "weather-hourly-when", "weather-hourly", ago(hours=1), {"stopTime": "2024-05-01"}, "Failed",
        ended_badly("StartTimeUnknown", 'spec.startTime is not given and the feature set "weather-hourly" has no backfill.startTime; give one of them', ago(hours=1), ago(hours=1), accepted=False),
    )
    quoted_message = "3 rows have the keys and event time of another but other features, for instance {carrier: '<script>'}; make the SQL return one of them or set guards.duplicates to KeepLast"
    quoted = backfill(
        XSS_NAME, "weather-hourly", ago(hours=4), {"startTime": "2024-04-01", "stopTime": "2024-04-20", "comment": XSS_COMMENT, "transformation": {"sql": "SELECT '</script><script>alert(1)</script>' AS origin"}},
        "Failed", ended_badly("AmbiguousDuplicates", quoted_message, ago(hours=4), ago(hours=3)), resolved=pinned(XSS_NAME, ago(hours=4), "2024-04-01", "2024-04-20"),
        attempts=[attempt("quoted", "offline", 1, ago(hours=4), "AmbiguousDuplicates")],
    )
    weather, weather_line = complete("weather-hourly-2024", "weather-hourly", "2024-01-01", "2024-06-01", ago(days=12), 1, rows=1_070_000, entities=310)
    sets = [
        feature_set("carrier-delays", coverage=[("2024-01-01", "2024-06-01")], ledger=[half_line, seed_line]),
        feature_set("weather-hourly", coverage=[("2024-01-01", "2024-06-01")], ledger=[weather_line], start=None),
    ]
    return snapshot(sets, [seed, shrink, half, cancelled, rejected, quoted, weather])


def five_hundred():
    """500 backfills over 40 feature sets in four environments."""
    dice = random.Random(7)
    nouns = "clicks sessions carts payments refunds devices merchants airports carriers weather".split()
    facts = "daily hourly risk spend".split()
    sets, backfills = [], []
    for index in range(40):
        namespace = ("prod", "staging", "ads", "fraud")[index % 4]
        name = f"{nouns[index % 10]}-{facts[index // 10]}"
        made, lines = [], []
        for number in range(13 if index % 2 else 12):
            made.append(_one_of_many(dice, namespace, name, number, lines))
        first = min((line["filled"]["start"] for line in lines), default=None)
        coverage = [(first[:10], "2024-06-01")] if first else []
        live = next((item["metadata"]["name"] for item in made if item["status"]["phase"] == "Running"), None)
        sets.append(feature_set(name, namespace=namespace, coverage=coverage, ledger=sorted(lines, key=lambda line: line["at"], reverse=True), active=live))
        backfills += made
    return snapshot(sets, backfills, namespace=None)


def _one_of_many(dice, namespace, set_name, number, lines):
    name = f"{set_name}-{namespace}-{number:02}"
    start = day("2023-01-01") + timedelta(days=dice.randrange(0, 480))
    stop = min(start + timedelta(days=dice.choice([1, 3, 7, 30, 30, 60, 90])), day("2024-06-01"))
    start, stop = show(start)[:10], show(stop)[:10]
    created = ago(days=200 - 16 * number, minutes=dice.randrange(1000))
    if number == 0:
        start, stop = "2023-01-01", "2024-06-01"
    if number == 12 or (number == 11 and dice.random() < 0.3):
        created = ago(minutes=dice.randrange(1, 50))
        done = dice.randrange(1, 31)
        return backfill(
            name, set_name, created, {"startTime": start, "stopTime": stop}, "Running", going("Running", "the offline step runs", created), namespace=namespace,
            resolved=pinned(name, created, start, stop), progress={"stage": "staging", "done": done, "total": 31, "rows": done * 5_021}, held={"since": show(created), "secondsBefore": 0}, attempts=[attempt(name, "offline", 1, created)],
        )
    if number and dice.random() < 0.12:
        message = "the result has no rows where the table has 41200; check the sources, or set guards.allowEmpty to remove them"
        return backfill(
            name, set_name, created, {"startTime": start, "stopTime": stop}, "Failed", ended_badly("EmptyResult", message, created, created + timedelta(minutes=3)), namespace=namespace,
            resolved=pinned(name, created, start, stop), attempts=[attempt(name, "offline", 1, created, "EmptyResult")],
        )
    made, line = complete(name, set_name, start, stop, created, number + 1, rows=dice.randrange(2_000, 9_000_000), entities=dice.randrange(20, 90_000), reset=number == 0, namespace=namespace, comment=dice.choice([None, None, "source was late", "definition changed"]))
    lines.append(line)
    return made


STATES = {"empty": empty, "fresh": fresh, "running": running, "failed": failed, "five-hundred": five_hundred}


def later(earlier: dict, seconds: int, windows: int) -> dict:
    """The same cluster a little later: the clock has moved, and running backfills have done more windows."""
    moved = copy.deepcopy(earlier)
    moved["generatedAt"] = show(datetime.fromisoformat(earlier["generatedAt"].replace("Z", "+00:00")) + timedelta(seconds=seconds))
    for item in moved["backfills"]:
        progress = item["status"].get("progress")
        if progress:
            progress["done"] = min(progress["total"], progress["done"] + windows)
            progress["rows"] += windows * 6_100
    return moved

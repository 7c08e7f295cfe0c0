"""What a record says against itself: recording refuses such a record, tables mark it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from peers.catalog import NO_FAULT
from peers.ratios import is_own, reduced, uncertain

Row = Mapping[str, Any]
# The load average before a measurement counts what the measuring itself has just done, at most a
# thread a core. It is looked at only in old records, which say nothing of others' work.
LOAD_OVER_CORES = 0.5


def faults(record: Row) -> list[str]:
    """Why the record is no clean result, in plain words; empty if nothing speaks against it."""
    return [*_wrong(record), *_busy(record), *uncertain(record), *_unsettled(record)]


def unrecorded(record: Row) -> list[str]:
    """What an old record does not tell, so that nobody can say whether it is clean."""
    missing = []
    if _timed(record) and "busy_others" not in record:
        missing.append("whether others used the cores")
    if "source" not in record:
        missing.append("which version of the source it is of")
    return missing


def _timed(record: Row) -> bool:
    return record.get("kind") not in ("layers", "accuracy", "instructions")


def _wrong(record: Row) -> Iterator[str]:
    """What did not compile or run, and outputs that are not the reference's."""
    if "why" in record:
        yield f"{record['model']} {record['why']}"
    for label, why in (record.get("unavailable") or {}).items():
        if why not in NO_FAULT:
            yield f"{label} did not run ({why})"
    for label, engine in (record.get("engines") or {}).items():
        # How far a peer is off in fewer bits is a result, which tables tell; that CANAO is, is an
        # error to be corrected.
        if not engine.get("right", True) and (is_own(label) or not reduced(engine)):
            cosine = f", cosine {engine['cosine']:.3f}" if reduced(engine) else ""
            yield f"{label} differs from the reference by {engine['difference']:.1e}{cosine}"
    if "tolerance" in record and not record["difference"] <= record["tolerance"]:
        yield f"it differs from the reference by {record['difference']:.1e}"


def _busy(record: Row) -> Iterator[str]:
    """Work of others; of old records, what their load average tells of it."""
    shares = record.get("busy_others")
    if shares is not None:
        yield from _over(shares)
        return
    facts = record.get("environment") or {}
    load, cores = facts.get("load_average", 0.0), facts.get("cores") or 1
    if load > cores + LOAD_OVER_CORES:
        yield f"the load average before was {load:.2g} on {cores} cores"


def _over(shares: Mapping[str, float]) -> Iterator[str]:
    limit = shares["limit"]
    for when in ("before", "during", "after"):
        if shares[when] > limit:
            yield (f"others used {shares[when]:.0%} of the cores {when} the measurement "
                   f"(limit {limit:.0%})")  # fmt: skip


def _unsettled(record: Row) -> Iterator[str]:
    """The source was not that of a commit."""
    if record.get("draft"):
        yield "it is a draft"
    source = record.get("source")
    if source is None:
        return
    if source["commit"] is None:
        yield "the source is not in a git checkout"
    elif source["changed"]:
        yield f"the source had changes that are in no commit ({', '.join(source['changed'][:3])})"

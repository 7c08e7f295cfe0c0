"""Changes every entry of every settings file of four small models, and counts what came of it.

    python benchmarks/settings.py --run      makes the changes, writes results/settings.jsonl
    python benchmarks/settings.py --table    writes the table into docs/files.md

Each change is compiled. It is right if the compiled model computes what Transformers or
Sentence-Transformers compute of the changed directory, or if it is refused in one line that names
the entry or its file (`tests/settings.py`). Times nothing.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pages import fill, table

from tests.settings import KINDS, changes_of, tried

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "settings.jsonl"
PAGE = ROOT / "docs" / "files.md"


def study(only: str) -> Iterator[dict[str, Any]]:
    """A record for each change: of which file and entry, how, and what came of it."""
    with tempfile.TemporaryDirectory() as folder:
        for kind, make in KINDS.items():
            model = make(Path(folder) / kind / "model")
            for change in changes_of(model):
                if not f"{kind}/{change.file}".startswith(only):
                    continue
                outcome = tried(model, change, Path(folder) / kind / "changed")
                fate = "refused" if outcome.refused else "same result"
                yield {"kind": kind, "file": change.file, "entry": change.entry,
                       "how": change.how, "value": change.value,
                       "fate": fate if outcome.right else "wrong",
                       "said": "" if outcome.right else outcome.said[:300]}  # fmt: skip


def counts(records: Sequence[dict[str, Any]]) -> str:
    """A row for each file of each model."""
    rows = [("model", "file", "changes", "same result", "refused", "wrong"),
            ("---", "---", "--:", "--:", "--:", "--:")]  # fmt: skip
    for kind, file in dict.fromkeys((r["kind"], r["file"]) for r in records):
        fates = [r["fate"] for r in records if (r["kind"], r["file"]) == (kind, file)]
        rows.append((kind, f"`{file}`", str(len(fates)), str(fates.count("same result")),
                     str(fates.count("refused")), str(fates.count("wrong"))))  # fmt: skip
    return table(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description="Change every entry of small models' settings.")
    parser.add_argument("--run", action="store_true", help="make the changes (15 minutes)")
    parser.add_argument("--table", action="store_true", help="write the table into docs/files.md")
    parser.add_argument("--only", default="", help="models and files that begin so; not recorded")
    given = parser.parse_args()
    if given.run:
        records = []
        for record in study(given.only):
            records.append(record)
            if record["fate"] == "wrong":
                print(f"{record['kind']}/{record['file']}: {record['entry']} {record['how']} "
                      f"{json.dumps(record['value'])}: {record['said']}", flush=True)  # fmt: skip
        print(counts(records))
        if not given.only:
            lines = "".join(json.dumps(r) + "\n" for r in records)
            RESULTS.write_text(lines, encoding="utf-8")
    if given.table:
        held = [json.loads(line) for line in RESULTS.read_text("utf-8").splitlines()]
        fill(PAGE, {"changes": counts(held)})


if __name__ == "__main__":
    main()

"""Loads an artifact with one manifest after another, and says what became of each.

    python -m tests.mutated FOLDER < manifests, a line of JSON text for each

As a program of its own, so that a crash of the library is seen. Prints a line for each manifest:
'same' if the model computes what it should, 'refused' and the message of a CanaoError, 'other' and
the error otherwise.
"""

from __future__ import annotations

import contextlib
import json
import sys
import traceback
from pathlib import Path

import numpy as np

import canao

IDS = np.arange(1, 6, dtype=np.int32)
TEXT = "wake me at seven"


def outcome(folder: Path, want: dict[str, np.ndarray] | None) -> str:
    try:
        with canao.load(folder, threads=2) as model:
            got = model.run(IDS)
            batch = model.run_batch([IDS[:3], IDS])
            same = want is None or (
                list(got) == list(want)
                and all(np.array_equal(got[name], want[name]) for name in want)
                and np.array_equal(batch[1], got[next(iter(got))])
            )
            for texts in ((TEXT,), (TEXT, "seven")):
                with contextlib.suppress(canao.CanaoError):  # what texts mean is the manifest's
                    model.predict(*texts)
        return "same" if same else "other: different numbers"
    except canao.CanaoError as error:
        said = str(error)
        one_line = said and "\n" not in said and len(said) < 700
        return f"refused: {said}" if one_line else f"other: the message is {said[:1000]!r}"
    except BaseException:  # noqa: BLE001  it is what is looked for
        return "other: " + json.dumps(traceback.format_exc()[-1500:])


def main() -> None:
    folder = Path(sys.argv[1])
    right = (folder / "manifest.json").read_bytes()
    with canao.load(folder) as model:
        want = model.run(IDS)
    try:
        for line in sys.stdin.buffer:
            text: str = json.loads(line)
            (folder / "manifest.json").write_bytes(text.encode("utf-8", "surrogatepass"))
            print(outcome(folder, want), flush=True)
    finally:
        (folder / "manifest.json").write_bytes(right)


if __name__ == "__main__":
    main()

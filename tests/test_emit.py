"""The text of every stage for a few targets, whole: a change of what is emitted is seen in review.

Names of values are those that torch.export gives; the texts are those of the pinned torch.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import assert_golden
from tests.emitted import CASES, IN_FLOAT32, STAGES

ROOT = Path(__file__).parents[1]
Texts = dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def runs() -> tuple[Texts, Texts]:
    """case -> stage -> text, from two processes whose hashes of strings differ."""
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.emitted"], cwd=ROOT, text=True,
            env=os.environ | {"PYTHONHASHSEED": seed}, stdout=subprocess.PIPE,
        )
        for seed in ("1", "2")
    ]  # fmt: skip
    first, second = (json.loads(process.communicate()[0]) for process in started)
    return first, second


def test_bytes_do_not_depend_on_hashes(runs: tuple[Texts, Texts]) -> None:
    first, second = runs
    assert set(first) == set(CASES) and all(set(texts) == set(STAGES) for texts in first.values())
    assert first == second


@pytest.mark.parametrize("stage", ("graph", "fused"))
def test_before_plans(
    stage: str, runs: tuple[Texts, Texts], golden: Callable[[str], None]
) -> None:
    """The same for every target in one precision; what is captured in any."""
    (text,) = {runs[0][case][stage] for case in (CASES if stage == "graph" else IN_FLOAT32)}
    golden(text)


@pytest.mark.parametrize("target", CASES)
@pytest.mark.parametrize("stage", ("plan", "source"))
def test_for_a_target(
    stage: str, target: str, runs: tuple[Texts, Texts], golden: Callable[[str], None]
) -> None:
    golden(runs[0][target][stage])


def test_nothing_of_this_machine_is_in_them(runs: tuple[Texts, Texts]) -> None:
    text = "\n".join(text for texts in runs[0].values() for text in texts.values())
    assert len(text) > 100_000
    assert not re.findall(r"/(?:home|root|tmp|usr|work)/|torch|transformers|20\d\d-\d\d", text)


@pytest.mark.parametrize("update", (False, True))
def test_a_golden_text_that_is_missing(update: bool, tmp_path: Path) -> None:
    """It fails, and is written only where that is asked for."""
    path = tmp_path / "deep" / "new.txt"
    if update:
        assert_golden("a\n", path, update=True)
        assert path.read_text() == "a\n"
    else:
        with pytest.raises(pytest.fail.Exception, match=r"new\.txt: .* --update-golden"):
            assert_golden("a\n", path)
        assert not path.parent.exists()


def test_a_golden_text_that_differs(tmp_path: Path) -> None:
    """The first lines that do are shown, and the file stays as it was."""
    path, lines = tmp_path / "golden.txt", [f"line {i}" for i in range(500)]
    path.write_text("\n".join(lines) + "\n")
    assert_golden(path.read_text(), path)
    lines[7] = "another"
    with pytest.raises(pytest.fail.Exception, match=r"-line 7\n\+another\n") as failed:
        assert_golden("\n".join(lines) + "\n", path)
    assert "more lines" not in str(failed.value)
    with pytest.raises(pytest.fail.Exception, match=r"\d+ more lines") as failed:
        assert_golden("nothing alike\n", path)
    assert len(str(failed.value).splitlines()) < 60
    assert "another" not in path.read_text()
    with pytest.raises(pytest.fail.Exception, match="line ends"):
        assert_golden(path.read_text().rstrip("\n"), path)

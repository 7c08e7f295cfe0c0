"""Tasks of libraries are a table: what one is asked for is all that a new one has to give."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import canao
from canao.artifact.directory import Artifact
from canao.artifact.manifest import sealed
from canao.cli import app
from canao.cli.run_command import read_texts, run_texts
from canao.cli.understood import understood
from canao.inference.tasks import TASKS
from canao.inference.tasks.prepared import Prepared
from canao.inference.tasks.task import OF_TEXT, Manifest, Option, Outputs, Task, first_of
from canao.model.directory.task import _HEADS
from tests.heads import save_model


class Largest(Task):
    """Which output is the largest: no task of CANAO's."""

    name = "largest-output"
    options: ClassVar[Mapping[str, Option]] = {
        "above": Option(0.0, valid=np.isfinite, remedy="a number")
    }
    per = OF_TEXT

    def interpret(
        self, prepared: Prepared, outputs: Sequence[Outputs], manifest: Manifest, tokenizer: Any
    ) -> int:
        values = first_of(outputs[0]) - prepared.options["above"]
        return int(values.argmax()) if values.max() > 0 else -1

    def form(self, prepared: Prepared, result: Any) -> dict[str, Any]:
        return {"largest": result}

    def lines(self, result: Any, options: Mapping[str, Any]) -> Iterator[str]:
        yield f"number {result}"

    def described(self, head: Manifest) -> Iterator[tuple[str, str]]:
        yield "scores", "the outputs"


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Artifact:
    """A library whose manifest names the new task."""
    monkeypatch.setitem(TASKS, Largest.name, Largest())
    save_model("ForSequenceClassification", tmp_path / "model", num_labels=3)
    canao.compile(tmp_path / "model", tmp_path / "out").close()
    file = tmp_path / "out" / "manifest.json"
    file.write_text(json.dumps(sealed(json.loads(file.read_text()) | {"task": Largest.name})))
    return Artifact.load(tmp_path / "out")


def test_a_new_task_is_a_row(library: Artifact) -> None:
    """From Python, as text and as JSON; its options alone are taken."""
    with canao.load(library.path) as model:
        found = model.predict("wake me at seven", above=-100.0)
        assert found == int(model(*model.arrays("wake me at seven")).argmax())
        assert model.predict("wake me at seven", above=100.0) == -1
        for options, said in (({"above": np.nan}, "above is nan; give a number"),
                              ({"top": 1}, "top is no option of largest.*: above")):  # fmt: skip
            with pytest.raises(canao.InputError, match=said):
                model.predict("wake me", **options)
        with pytest.raises(canao.InputError, match="largest-output takes one text, not a pair"):
            model.predict("wake me", "at seven")
        for as_json in (False, True):
            written: list[str] = []
            run_texts(
                model, read_texts(model, ["wake me at seven"], None, None), truncate=None,
                options={"above": -100.0}, as_json=as_json, write=written.append, note=print,
            )  # fmt: skip
            (line,) = written
            form = {"text": "wake me at seven", "largest": found}
            assert json.loads(line) == form if as_json else line == f"number {found}\n"
    assert ("scores", "the outputs") in understood(library.manifest)


def test_an_output_of_another_kind_is_refused(library: Artifact) -> None:
    file = library.path / "manifest.json"
    entries = json.loads(file.read_text()) | {"task": "token-classification"}
    file.write_text(json.dumps(sealed(entries)))
    with canao.load(library.path) as model, pytest.raises(canao.InputError, match="for each token"):
        model.predict("wake me")


def test_every_option_of_the_command_line_is_some_tasks() -> None:
    """And every task that a head may have is in the table."""
    given = set(inspect.signature(app.run).parameters)
    others = {"artifact", "texts", "context", "file", "truncate", "threads", "as_json"}
    assert others < given
    assert given - others <= {name for task in TASKS.values() for name in task.options}
    assert {task for _, task in _HEADS} <= set(TASKS)

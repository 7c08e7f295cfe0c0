"""A student that keeps a budget on each of several devices, and a student for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import canao
from canao.artifact.certificate_file import load_certificate
from canao.artifact.directory import Artifact
from canao.device.null import NullDevice
from canao.errors import BudgetError, InputError
from canao.machine import Machine
from canao.model.arch import Arch
from canao.search import Event, SearchResult
from canao.search.candidates.trial import MEASURED_OVER
from canao.search.elsewhere import Elsewhere
from canao.search.options import Finished
from tests.search.landscape import (
    TEACHER,
    FormulaTrainer,
    compile_by_formula,
    device,
    latency_ms,
    options,
    run_search,
)
from tests.search.test_several import place  # noqa: F401 - a fixture

BUDGET = 0.2 * latency_ms(TEACHER)


def phone(name: str, latency: Callable[[Arch], float]) -> NullDevice:
    made = device(latency, machine=Machine(cpu=name))
    made.name = name
    return made


def further(name: str, latency: Callable[[Arch], float], budget: float) -> Elsewhere:
    def finish(model_dir: Path, out: Path, say: Any) -> Finished:
        return Finished(compile_by_formula(model_dir, out))

    return Elsewhere(phone(name, latency), budget, (), compile_by_formula, finish)


def wide_is_slow(arch: Arch) -> float:
    """On this one nothing counts but the width: of more than 256 none keeps the budget."""
    return arch.hidden / 256 * BUDGET


def searched(run_dir: Path, *places: Elsewhere, **changes: Any) -> tuple[SearchResult, list[Event]]:
    events: list[Event] = []
    result = run_search(
        options(run_dir, **changes), FormulaTrainer(run_dir.parent / "w"), compile_by_formula,
        device(), events.append, elsewhere=places,
    )  # fmt: skip
    return result, events


def test_one_student_for_all(tmp_path: Path) -> None:
    plain, _ = searched(tmp_path / "plain", trials=8)
    assert plain.arch.hidden > 256 and plain.elsewhere == ()
    both, _ = searched(tmp_path / "both", further("slow", wide_is_slow, BUDGET), trials=8)
    assert both.arch.hidden <= 256
    (artifact, certificate), = both.elsewhere
    assert artifact.path == tmp_path / "both" / "artifact-2"
    assert certificate.device == "slow" and certificate.holds and both.certificate.holds
    assert load_certificate(Artifact.load(artifact.path)) == certificate
    late = [t for t in both.trials if t.verdict == MEASURED_OVER and t.reason.endswith("on slow")]
    assert late and all(t.excess > 0 for t in late)


def test_it_resumes(tmp_path: Path) -> None:
    slow = further("slow", wide_is_slow, BUDGET)
    first, _ = searched(tmp_path / "run", slow)
    again, events = searched(tmp_path / "run", slow)
    assert again.arch == first.arch and any(e.stage == "resume" for e in events)
    for other in ((), (further("slow", wide_is_slow, 2 * BUDGET),)):
        with pytest.raises(InputError, match="elsewhere was"):
            searched(tmp_path / "run", *other)


def test_a_device_that_keeps_none(tmp_path: Path) -> None:
    said = r"no student keeps the budget on slow: .* takes .* ms on slow .*; give a budget of"
    with pytest.raises(BudgetError, match=said):
        searched(tmp_path / "run", further("slow", wide_is_slow, BUDGET / 10))


def test_a_finished_library_that_is_late_there(tmp_path: Path) -> None:
    """Is not published, and named with the device."""
    trainer = FormulaTrainer(tmp_path / "w")

    def late(arch: Arch) -> float:
        return latency_ms(arch) * (100.0 if trainer.count("finish") else 1.0)

    events: list[Event] = []
    with pytest.raises(BudgetError, match="no finished library kept"):
        run_search(
            options(tmp_path / "run", finalists=1), trainer, compile_by_formula, device(),
            events.append, elsewhere=(further("flaky", late, BUDGET),),
        )  # fmt: skip
    assert any("(on flaky)" in event.text for event in events)
    assert not (tmp_path / "run" / "artifact").exists()


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"device": "null,null", "budget_ms": 2.0}, "names null twice"),
        ({"device": "null", "budget_ms": [2.0, 3.0]}, "2 latency budgets for 1 device"),
        ({"device": "null", "budget_ms": []}, "budget"),
        ({"device": [], "budget_ms": 2.0}, "no device"),
        ({"device": "null,nowhere", "budget_ms": 2.0}, "device 'nowhere' is not one of"),
        ({"device": "null,local", "budget_ms": [2.0, -1.0]}, "budget"),
        ({"device": "null,local", "budget_ms": 2.0, "study": "sqlite:///none"}, "--study is of"),
    ],
)
def test_what_is_not_asked_so(
    place: Path, tmp_path: Path, asked: dict[str, Any], words: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=words):
        canao.search(teacher=place / "teacher", data=place / "task", run_dir=tmp_path / "run",
                     **asked)  # fmt: skip
    assert not list(tmp_path.iterdir())  # no run, and no database


def test_a_student_for_each(place: Path, tmp_path: Path) -> None:  # noqa: F811
    """They share what is trained."""
    one, two = phone("usb:1", lambda arch: 1.0), phone("usb:2", lambda arch: 1.0)
    fast, slow = (replace_script(d, ms) for d, ms in ((one, 1.0), (two, 3.0)))
    found = canao.search_devices(
        [fast, slow], [2.0, 4.0], run_dir=tmp_path / "runs", teacher=place / "teacher",
        data=place / "task", trials=1, quick_steps=2, epochs=1, teacher_epochs=2, teacher_lr=2e-3,
        length=16, controller="random",
    )  # fmt: skip
    assert list(found) == ["usb:1", "usb:2"]
    assert found["usb:2"].certificate.budget_ms == 4.0
    assert found["usb:2"].run_dir == tmp_path / "runs" / "usb-2"
    assert not (tmp_path / "runs" / "usb-2" / "train").exists()


def replace_script(where: NullDevice, ms: float) -> NullDevice:
    made = NullDevice(ms, machine=replace(where.machine))
    made.name = where.name
    return made

"""A search in another precision than float32: its table, its journal, its certificate, its report,
and the library that it ends with."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

import canao
from canao import api
from canao.accuracy import gate
from canao.accuracy.fastest import candidates
from canao.accuracy.measure import labelled_text, predictions
from canao.artifact.certificate_file import load_certificate
from canao.artifact.directory import Artifact
from canao.compiler.pipeline import compile_model
from canao.defaults import silent
from canao.device.null import NullDevice
from canao.errors import AccuracyError, BudgetError, InputError
from canao.report.write import write_report
from canao.search import Event, SearchOptions, SearchResult
from canao.search.latency.table import table_key
from canao.search.options import Finished
from canao.search.study.journal import read_trials
from canao.target import get_target
from canao.train.metrics import Score
from canao.train.options import LATER, TrainOptions
from tests.accuracy.test_gate import save_model
from tests.search.landscape import FormulaTrainer, compile_by_formula, device, options, run_search
from tests.train.tiny_bert import save_tiny, write_task

INT8 = TrainOptions(precision="int8")
LIBRARYS = Score({"accuracy": 0.125, "f1": 0.5}, "accuracy")
in_int8 = partial(compile_by_formula, precision="int8")


def test_everything_knows_the_precision(tmp_path: Path) -> None:
    finished: list[Path] = []

    def finish(model_dir: Path, out: Path, say: Callable[[str], None]) -> Finished:
        say("float32: accuracy 12.60 on 8 examples")
        finished.append(out)
        return Finished(in_int8(model_dir, out), LIBRARYS)

    asked, events = options(tmp_path / "run", training=INT8), list[Event]()
    where = device(peak={"f32": 1e10, "i8": 4e10})
    result = run_search(
        asked, FormulaTrainer(tmp_path / "w"), in_int8, where, events.append, finish
    )
    assert result.score == LIBRARYS and len(finished) == 1
    assert any(e.stage == "finish" and e.text.startswith("float32: acc") for e in events)
    certificate = load_certificate(Artifact.load(result.artifact.path))
    assert certificate.precision == "int8" and "(int8, 1025 samples of 5" in str(certificate)
    assert list(json.loads((tmp_path / "run" / "latency.json").read_text())["tables"]) == [
        table_key(where, asked.measure, "int8")
    ]
    # Each kernel has the same work: of a layer four are products in int8, four times as fast, and
    # one is in float32, as are the two outside of the layers.
    measured = [t for t in result.trials if t.latency_ms]
    assert measured
    for trial in measured:
        assert trial.flops is not None and trial.median_ms is not None
        layers = trial.arch.layers
        at_peak = trial.flops / (5 * layers + 2) * ((layers + 2) / 1e10 + 4 * layers / 4e10)
        assert trial.utilisation == pytest.approx(at_peak / (trial.median_ms / 1e3))
    page = write_report(tmp_path / "run").read_text()
    assert "<dt>precision</dt><dd>int8</dd>" in page
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["precision"] == "int8" and summary["student"]["metrics"]["accuracy"] == 0.125


def test_a_run_of_another_precision_is_refused(tmp_path: Path) -> None:
    asked = options(tmp_path, trials=1)
    run_search(asked, FormulaTrainer(tmp_path / "w"), compile_by_formula, device())

    def again(training: TrainOptions) -> None:
        run_search(
            replace(asked, training=training), FormulaTrainer(tmp_path / "w"), in_int8, device()
        )

    with pytest.raises(InputError, match="precision was 'float32', now 'int8'"):
        again(INT8)
    # Runs of earlier versions do not say it: they were in float32.
    row = json.loads((tmp_path / "run.json").read_text())
    for name in ("precision", "training.quantized_epochs", *(f"training.{n}" for n in LATER)):
        del row["facts"][name]
    (tmp_path / "run.json").write_text(json.dumps(row))
    assert "<dt>precision</dt><dd>float32</dd>" in write_report(tmp_path).read_text()
    with pytest.raises(InputError, match="precision was 'float32', now 'int8'"):
        again(INT8)
    with pytest.raises(InputError, match=r"training\.losses was 'logits=1,.*', now 'labels=1'"):
        again(TrainOptions(losses="labels=1"))
    run_search(asked, FormulaTrainer(tmp_path / "w"), compile_by_formula, device())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"max_loss": 1.0}, "max_loss is what another precision may lose .* with --precision"),
        ({"max_loss": -1.0, "training": INT8}, r"max_loss is -1\.0; give points"),
        ({"max_loss": float("nan"), "training": INT8}, "max_loss is nan; give points"),
    ],
)
def test_losses_that_cannot_be(change: dict[str, object], words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        options(tmp_path, **change)


SMALL = {"trials": 1, "quick_steps": 2, "epochs": 3, "teacher_epochs": 6, "teacher_lr": 2e-3,
         "length": 16, "controller": "random"}  # fmt: skip


def test_a_search_in_int8(tmp_path: Path) -> None:
    """From the teacher to the certificate: with a device that runs nothing, and training of
    seconds. The score is that of the very library that was certified."""
    teacher = save_tiny(tmp_path / "teacher", num_hidden_layers=2)
    data = write_task(tmp_path / "task", train=160)
    told, steps = list[str](), list[str]()
    result = canao.search(
        teacher=teacher, data=data, budget_ms=2.0, run_dir=tmp_path / "run", device="null",
        precision="int8", max_loss=10, progress=lambda e: told.append(e.text),
        train_progress=lambda stage, *_: steps.append(stage), **SMALL,
    )  # fmt: skip
    manifest = result.artifact.manifest
    assert manifest["precision"] == result.certificate.precision == "int8"
    assert any("_i8" in kernel["name"] for kernel in manifest["kernels"])
    texts = labelled_text(data)
    assert predictions(result.artifact, texts).score == result.score
    assert manifest["check"]["compiled"] == result.score.value
    assert manifest["check"]["float32"] - result.score.value <= 0.1
    assert any(line.startswith("int8, all ") for line in told)
    assert len(set(told)) == len(told), "told twice"
    table = (tmp_path / "run" / "latency.json").read_text()
    assert "_i8" in table and " int8" in table
    page = write_report(tmp_path / "run").read_text()
    assert "figures are those of its library in int8, on 60 examples" in page

    before = len(steps)
    again = canao.search(
        teacher=teacher, data=data, budget_ms=2.0, run_dir=tmp_path / "run", device="null",
        precision="int8", max_loss=10, train_progress=lambda stage, *_: steps.append(stage),
        **SMALL,
    )  # fmt: skip
    assert again.score == result.score and len(steps) == before, "nothing is trained again"
    with pytest.raises(InputError, match=r"training\.quantized_epochs was 'None', now '2'"):
        canao.search(
            teacher=teacher, data=data, budget_ms=2.0, run_dir=tmp_path / "run", device="null",
            precision="int8", max_loss=10, quantized_epochs=2, **SMALL,
        )  # fmt: skip


def test_a_library_is_changed_until_no_more_is_lost_than_allowed(tmp_path: Path) -> None:
    """By the rule of `compile --check`, on the data of the search and by its metric."""
    model = save_model(tmp_path / "model", ("neg", "pos"), outlier=3000.0)
    data = labelled_text(write_task(tmp_path / "task"))
    want = predictions(compile_model(model, tmp_path / "reference"), data)
    truth = replace(data, dev=tuple(
        replace(e, label=int(v)) for e, v in zip(data.dev, want.values, strict=True)
    ))  # fmt: skip
    asked = SearchOptions(
        budget_ms=1.0, run_dir=tmp_path, training=replace(INT8, metric="f1"), max_loss=0.0
    )
    finish = api._finisher(NullDevice(), truth, asked)
    assert finish is not None
    told: list[str] = []
    found = finish(model, tmp_path / "out", told.append)
    assert len(found.artifact.manifest["smoothed"]) >= 3
    assert found.artifact.manifest["check"]["metric"] == "f1" == found.score.primary
    assert found.score == replace(predictions(found.artifact, truth).score, primary="f1")
    assert found.score.value == 1.0 and len(told) >= 3


def test_a_device_whose_libraries_do_not_run_here(tmp_path: Path) -> None:
    arm = NullDevice(target=get_target("aarch64-linux"))
    asked = SearchOptions(budget_ms=1.0, run_dir=tmp_path, training=INT8)
    data = labelled_text(write_task(tmp_path / "task"))
    with pytest.raises(InputError, match=r"runs none for aarch64-linux .*; search in float32"):
        api._finisher(arm, data, asked)
    finish = api._finisher(arm, data, replace(asked, training=TrainOptions()))
    found = finish(save_tiny(tmp_path / "student"), tmp_path / "library", silent)
    assert found.score is found.scored is None  # nothing was asked of it here


@pytest.mark.parametrize(("int8_ms", "chosen"), [(0.5, "int8"), (1.2, "float32")])
def test_auto_takes_the_precision_in_which_the_teacher_is_fastest(
    int8_ms: float, chosen: str, tmp_path: Path
) -> None:
    """What was chosen stays, though a resumed run would choose otherwise now."""
    times = {"float32": 1.0, "int8": int8_ms}
    teacher = save_tiny(tmp_path / "teacher", num_hidden_layers=2)
    told = list[str]()

    def search(**changes: float) -> SearchResult:
        taken = times | changes
        return canao.search(
            teacher=teacher, data=write_task(tmp_path / "task", train=160), budget_ms=2.0,
            run_dir=tmp_path / "run", device=NullDevice(lambda a: taken.get(a.precision, 1.0)),
            precision="auto", max_loss=10, quantized_epochs=1,
            progress=lambda event: told.append(event.text), **SMALL,
        )  # fmt: skip

    result = search()
    assert result.artifact.manifest["precision"] == chosen
    assert f"libraries are in {chosen}" in told
    assert any("float32 1.000 ms" in line and f"int8 {int8_ms:.3f} ms" in line for line in told)
    told.clear()
    now = {"int8": 1.9, "float32": 0.1} if chosen == "int8" else {"int8": 0.1, "float32": 1.9}
    assert search(**now).artifact.manifest["precision"] == chosen
    assert not any("libraries are in" in line for line in told)


def losing(monkeypatch: pytest.MonkeyPatch, points: float) -> None:
    """Every precision but float32 loses so many points of any data."""
    real = gate.compile_checked

    def checked(*given: object, precision: str, max_loss: float, **options: object) -> object:
        if max_loss < points:
            most = f"--max-loss is {max_loss}"
            raise AccuracyError(f"{precision} loses {points:.2f} with all; {most}")
        return real(*given, precision=precision, max_loss=100, **options)

    monkeypatch.setattr(gate, "compile_checked", checked)


def test_auto_goes_on_in_the_next_more_precise_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a finished library loses too much. It says so, a resumed run stays there, and one with
    a larger --max-loss tries again what was left out."""
    losing(monkeypatch, 3.0)
    run, known = tmp_path / "run", candidates(get_target())
    times = {name: 1.0 - 0.2 * i for i, name in enumerate(known)}  # the least precise is fastest
    teacher = save_tiny(tmp_path / "teacher", num_hidden_layers=2)
    data = write_task(tmp_path / "task", train=160)
    told, steps = list[str](), list[str]()

    def search(max_loss: float) -> SearchResult:
        told.clear()
        steps.clear()
        return canao.search(
            teacher=teacher, data=data, budget_ms=2.0, run_dir=run, precision="auto",
            device=NullDevice(lambda a: times[a.precision]), max_loss=max_loss,
            progress=lambda event: told.append(event.text),
            train_progress=lambda stage, *_: steps.append(stage), **SMALL,
        )  # fmt: skip

    result = search(0.5)
    assert result.artifact.precision == result.certificate.precision == "float32"
    left = [name for name in reversed(known) if name != "float32"]
    assert [line.split()[0] for line in told if "was left out: " in line] == left
    assert len([line for line in told if line.startswith("resuming in ")]) == len(left)
    assert len([line for line in told if "to train on" in line]) == 1, "the data are told of once"
    facts = json.loads((run / "run.json").read_text())["facts"]
    assert facts["precision"] == "float32" and [one[0] for one in facts["left_out"]] == left
    page, summary = write_report(run).read_text(), json.loads((run / "summary.json").read_text())
    for name in left:
        assert f"{name} was left out: {name} loses 3.00 with all; --max-loss is 0.5" in page
    assert [one[0] for one in summary["left_out"]] == left and summary["precision"] == "float32"
    assert len(read_trials(run)) == len(result.trials) > 0

    for most in (0.5, 0.25):
        assert search(most).artifact.precision == "float32" and not steps
        assert sum("was left out: " in line for line in told) == len(left)
    result = search(10)
    assert result.artifact.precision == left[0]
    assert any(line == f"{left[0]} is tried again with --max-loss 10" for line in told)
    assert "left_out" not in json.loads((run / "run.json").read_text())["facts"]
    assert "was left out" not in write_report(run).read_text()


def test_a_budget_that_only_a_precision_kept_that_was_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losing(monkeypatch, 3.0)
    teacher = save_tiny(tmp_path / "teacher", num_hidden_layers=2)
    words = r"lost more than --max-loss, which a larger one may allow"
    with pytest.raises(BudgetError, match=words) as missed:
        canao.search(
            teacher=teacher, data=write_task(tmp_path / "task", train=160), budget_ms=2.0,
            run_dir=tmp_path / "run", precision="auto",
            device=NullDevice(lambda a: 5.0 if a.precision == "float32" else 1.0), **SMALL,
        )  # fmt: skip
    first = candidates(get_target())[1]
    assert missed.value.exit_code == 1 and f"{first} lost more" in str(missed.value)
    assert "\n" not in str(missed.value)


def test_a_precision_that_was_asked_for_is_not_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losing(monkeypatch, 3.0)
    teacher = save_tiny(tmp_path / "teacher", num_hidden_layers=2)
    with pytest.raises(AccuracyError, match=r"int8 loses 3\.00"):
        canao.search(
            teacher=teacher, data=write_task(tmp_path / "task", train=160), budget_ms=2.0,
            run_dir=tmp_path / "run", precision="int8", device="null", **SMALL,
        )  # fmt: skip

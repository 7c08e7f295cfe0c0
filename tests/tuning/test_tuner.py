"""The tuner: finds what is fast, never takes what is wrong, and goes on where it was."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from canao.artifact.directory import Artifact
from canao.compiler.loading import load_model
from canao.compiler.pipeline import compile_graph, compile_model
from canao.compiler.plans import tuning_database
from canao.device.base import MeasureConfig
from canao.device.bench import local_device
from canao.device.null import NullDevice
from canao.errors import InputError
from canao.fuse.group import Program
from canao.graph.dtypes import NARROW
from canao.inference.compiled_model import CompiledModel
from canao.isa.registry import ISAS
from canao.lower.scheduling import default_plan, default_plans, product_of, space
from canao.machine import local_machine
from canao.precision.quantize import PRECISIONS
from canao.target import Target, get_target
from canao.tuning import measure, trial_library, tune_model, tuner
from tests.compiler.models import classifier, decoder, reference
from tests.oracle import assert_close

HOST = get_target()
DEEP = "gemm_1100x24"
UNHURRIED = 3600.0  # seconds: on a busy machine too, the search ends by itself


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database of its own for each test, while builds stay in the common cache; fewer trials."""
    monkeypatch.setattr("canao.compiler.plans.cache_directory", lambda: tmp_path / "cache")
    monkeypatch.setattr(tuner, "_SCOUTED", 1)
    monkeypatch.setattr(tuner, "_SMALL", 0.2)  # of the made-up times: only DEEP is searched


@pytest.fixture(scope="module")
def model():
    return classifier("deep_product", layers=1, max_length=64)


def device(cost: Callable[[str], float]) -> NullDevice:
    """A device whose kernels take the time that `cost` makes up from their names."""

    def kernels(artifact: Artifact) -> list[tuple[str, float]]:
        return [(k["name"], cost(k["name"])) for k in artifact.manifest["kernels"]]

    return Planted(kernels=kernels, machine=local_machine())


class Planted(NullDevice):
    """Times are a script's, and results those of the library on this machine."""

    def run_batch(self, artifact: Artifact, sequences, threads: int = 1):
        return local_device().run_batch(artifact, sequences, threads)


def planted(name: str, kc: int) -> float:
    """A millisecond for everything; the deep product is faster the nearer it is to a kc."""
    found = re.search(rf"{DEEP}_.*_kc(\d+)_", name)
    return 1.0 + abs(math.log2(int(found[1]) / kc)) if found else 1.0


def compiled_plan(model, out: Path, kernel: str = DEEP) -> dict:
    artifact = compile_model(model, out)
    return next(k for k in artifact.manifest["kernels"] if k["name"].startswith(kernel))


def assert_right(model, artifact: Path, sentences) -> None:
    with CompiledModel(artifact) as compiled:
        for length in (1, 17, 33, 64):
            ids, types = sentences(length, 99, 2)
            want = reference(model, ids, types)[0]
            assert_close(compiled.run(ids[None], types[None])["logits"], want, f"length {length}")


def test_finds_a_planted_plan(model, tmp_path: Path, sentences) -> None:
    said: list[str] = []
    report = tune_model(
        model, length=33, budget_s=UNHURRIED, device=device(lambda n: planted(n, 275)),
        progress=said.append,
    )  # fmt: skip
    kernel = next(k for k in report.kernels if k.name.startswith(DEEP))
    assert "_kc275_" in f"{kernel.plan}_" and kernel.tuned_ms < kernel.default_ms
    assert report.complete and said
    assert all(k.plan == k.default for k in report.kernels if k is not kernel)
    made = compiled_plan(model, tmp_path / "out")
    assert made["tuned"] and made["plan"] == kernel.plan
    assert_right(model, tmp_path / "out", sentences)
    untuned = compile_model(model, tmp_path / "plain", tuned=False)
    assert not any(k["tuned"] for k in untuned.manifest["kernels"])


def test_finds_a_tile_for_one_kernel(model, tmp_path: Path, sentences) -> None:
    """Two rows fewer than the default's, for one kernel; the others stay as they are."""
    stages = compile_graph(load_model(model)[1], HOST, planner=default_plans)
    defaults = dict(zip((r.output for r in stages.program.regions), stages.plans, strict=True))

    def cost(name: str) -> float:
        found = re.match(rf"{DEEP}_.*_(\d+)x\d+_kc", name)
        return 3.0 + abs(int(found[1]) - ISAS[HOST.isa].mr + 2) if found else 1.0

    tune_model(model, length=33, budget_s=UNHURRIED, device=device(cost))
    for k in compile_model(model, tmp_path / "o").manifest["kernels"]:
        default = defaults[k["output"]]
        if k["name"].startswith(DEEP):
            assert k["tuned"] and k["plan"].startswith(f"{default.mr - 2}x")
        else:
            assert not k["tuned"] and k["plan"] == default.name
    assert_right(model, tmp_path / "o", sentences)


def test_a_wrong_plan_never_wins(model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """kc 367 is fastest and leaves out a part of the sum."""
    emit = trial_library.emit

    def broken(schedule, target):
        source = emit(schedule, target)
        code = source.code.replace("k0 < 1100; k0 += 367", "k0 < 734; k0 += 367")
        return dataclasses.replace(source, code=code)

    monkeypatch.setattr(trial_library, "emit", broken)
    said: list[str] = []
    tune_model(
        model, length=33, budget_s=UNHURRIED, device=device(lambda n: planted(n, 367)),
        progress=said.append,
    )  # fmt: skip
    assert any("_kc367_" in line and "does not count" in line for line in said)
    assert "_kc367_" not in compiled_plan(model, tmp_path / "out")["plan"]


def test_a_plan_that_crashes_does_not_count(
    model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    emit = trial_library.emit

    def broken(schedule, target):
        source = emit(schedule, target)
        loop = "for (int64_t k0 = 0; k0 < 1100; k0 += 367)"
        code = source.code.replace(loop, "__builtin_trap();" + loop)
        return dataclasses.replace(source, code=code)

    monkeypatch.setattr(trial_library, "emit", broken)
    subjects = tuner.find_subjects(compile_graph(load_model(model)[1], HOST).program, HOST)
    deep = next(s for s in subjects if getattr(s.region.form, "k", 0) == 1100)
    crashing, sound = (next(p for p in space(deep.region, HOST) if p.kc == kc) for kc in (367, 550))
    plan_timer = measure.PlanTimer(
        subjects, HOST, local_device(), tuning_database(HOST), MeasureConfig(17), tmp_path / "w",
        None, math.inf, lambda text: None,
    )  # fmt: skip
    admitted = plan_timer.admitted([(deep, crashing), (deep, sound)])
    assert [t.pairs for t in admitted] == [((deep, sound),)]
    assert [m.plan for m in plan_timer.database.read(deep.text) if m.ms is None] == [crashing]


def test_goes_on_where_it_was(model, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[trial_library.Pair] = []
    build = trial_library.build_trial_library

    def logged(pairs, *args, **kwargs):
        built.extend(pairs)
        return build(pairs, *args, **kwargs)

    def interrupt(text: str) -> None:
        if "plans nearby" in text:
            raise KeyboardInterrupt

    monkeypatch.setattr(measure, "build_trial_library", logged)
    timer = device(lambda n: planted(n, 275))
    with pytest.raises(KeyboardInterrupt):
        tune_model(model, length=33, budget_s=UNHURRIED, device=timer, progress=interrupt)
    first, default = set(built), {(s, default_plan(s.region, HOST)) for s, _ in built}
    built.clear()
    monkeypatch.setattr(tuner, "_confirm", lambda timer: None)
    report = tune_model(model, length=33, budget_s=UNHURRIED, device=timer)
    assert report.plans_measured and not (set(built) & first) - default


def test_nothing_is_measured_twice(model) -> None:
    def tuned(length: int, kc: int) -> tuple[int, str]:
        timer = device(lambda n: planted(n, kc))
        report = tune_model(model, length=length, budget_s=UNHURRIED, device=timer)
        assert report.complete
        return report.plans_measured, report.kernels[0].plan

    first, plan = tuned(33, 275)
    assert first > 0 and "_kc275_" in plan
    assert tuned(33, 275) == (0, plan)
    other, another = tuned(34, 184)
    assert other > 0 and "_kc184_" in another, "another length, other times"
    assert tuned(33, 275) == (0, plan), "what was tuned last counts, measured or not"


@pytest.mark.as_shipped
def test_a_real_tune_of_a_small_model(tmp_path: Path, sentences) -> None:
    """Timed on this machine: whatever wins, the library is right, and says what was tuned."""
    model = classifier("small", max_length=64)
    report = tune_model(model, length=17, budget_s=10)
    assert len(report.kernels) == 7 and report.seconds < 60
    assert all(k.default_ms > 0 and k.tuned_ms <= k.default_ms for k in report.kernels)
    assert [k.calls for k in report.kernels].count(2) == 5
    compile_model(model, tmp_path / "out")
    assert_right(model, tmp_path / "out", sentences)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert {k.plan for k in report.kernels} <= {k["plan"] for k in manifest["kernels"]}
    first, second = (compile_graph(load_model(model)[1], HOST).source for _ in range(2))
    assert first == second, "one database, one library"


@pytest.mark.parametrize(
    ("options", "words"),
    (
        ({"target": get_target("aarch64-linux")}, "aarch64-linux.*--device ssh:HOST"),
        ({"length": 65}, "length 65 is outside 1..64"),
        ({"length": 0}, "length 0"),
        ({"budget_s": 0}, "budget 0 s"),
        ({"threads": 0}, "threads 0"),
        ({"precision": "int7"}, "precision 'int7' is not one of float32, .*int8"),
    ),
)
def test_what_cannot_be_tuned(model, options: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        tune_model(model, **options)


def narrow_program(model, precision: str) -> tuple[Target, Program]:
    stages = compile_graph(
        load_model(model)[1], HOST, planner=default_plans, precision=precision, allow_emulation=True
    )
    return stages.target, stages.program


@pytest.mark.parametrize("precision", [p for p in PRECISIONS if p != "float32"])
def test_trials_of_narrow_products_are_right(model, precision: str, tmp_path: Path) -> None:
    """Whatever their rows are, and whatever they make."""
    target, program = narrow_program(model, precision)
    subjects = tuner.find_subjects(program, HOST)
    assert len(subjects) == 7, "all products and attention, as in float32"
    pairs = []
    for s in subjects:
        default, *others = space(s.region, target)
        pairs += [(s, default), (s, others[len(others) // 2])]
        if s.text.startswith("attention"):  # with several tiles of keys as well
            pairs += [(s, p) for p in others if p.keys < 128][:1]
    made = trial_library.build_trial_library(pairs, target, tmp_path / "trial", copies=2)
    assert not made.wrong(local_device(), 128)
    times = made.times(local_device(), MeasureConfig(33, samples=2))
    assert list(times) == pairs and all(ms > 0 for ms in times.values())


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_a_wrong_plan_of_narrow_rows_is_found(
    model, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that leaves out a single element of each sum, of a region whose result is narrow."""
    target, program = narrow_program(model, precision)
    makes_rows = next(s for s in tuner.find_subjects(program, HOST)
                      if program.graph.types[s.region.output].dtype in NARROW)  # fmt: skip
    default, *others = space(makes_rows.region, target)
    bad = next(p for p in others if p.tile != default.tile)
    region = makes_rows.region
    k, step = region.form.k, ISAS[target.isa].tiles[product_of(region, target)].kr
    emit = trial_library.emit

    def broken(schedule, target):
        source = emit(schedule, target)
        tile = f"_{bad.mr}x{bad.nr}(m, {k}, "
        assert source.code.count(tile) == 1
        return dataclasses.replace(
            source, code=source.code.replace(tile, tile.replace(f"{k}, ", f"{k - step}, "))
        )

    monkeypatch.setattr(trial_library, "emit", broken)
    pairs = [(makes_rows, bad), (makes_rows, default)]
    made = trial_library.build_trial_library(pairs, target, tmp_path / "trial")
    assert made.wrong(local_device(), 17) == ((makes_rows, bad),)


def test_libraries_of_each_precision_are_tuned_for_themselves(model, tmp_path: Path) -> None:
    _, program = narrow_program(model, "int8")
    deep = next(r for r in program.regions if getattr(r.form, "k", 0) == 1100)
    kc = sorted({p.kc for p in space(deep, HOST.for_products("i8"))})[-2]
    report = tune_model(
        model, length=33, budget_s=UNHURRIED, device=device(lambda n: planted(n, kc)),
        precision="int8",
    )  # fmt: skip
    (found,) = (k for k in report.kernels if k.name.startswith(DEEP))
    assert f"_kc{kc}_" in f"{found.plan}_"
    made = {
        (precision, tuned): compile_model(
            model, tmp_path / f"{precision}{tuned}", precision=precision, tuned=tuned
        )
        for precision, tuned in (("int8", True), ("int8", False), ("fp16", True))
    }
    changed = {case: [k["name"].partition("_i8")[0] for k in a.manifest["kernels"] if k["tuned"]]
               for case, a in made.items()}  # fmt: skip
    assert changed == {("int8", True): [DEEP], ("int8", False): [], ("fp16", True): []}
    ids = np.arange(33, dtype=np.int32)[None]
    with CompiledModel(made["int8", True]) as one, CompiledModel(made["int8", False]) as other:
        assert np.array_equal(one.run(ids)["logits"], other.run(ids)["logits"]), "sums are exact"


def test_decoders_are_tuned(tmp_path: Path) -> None:
    """Their attention is two steps, one of which writes the cache; both count as one kernel."""
    small = decoder(layers=1, max_length=64)
    program = compile_graph(load_model(small)[1], HOST, planner=default_plans).program
    subjects = [s for s in tuner.find_subjects(program, HOST) if s.text.startswith("attention")]
    assert len(subjects) == 1
    region = subjects[0].region
    plans = [default_plan(region, HOST), *space(region, HOST)]
    pairs = [(subjects[0], plan) for plan in list(dict.fromkeys(plans))[:3]]
    assert len(pairs) == 3
    made = trial_library.build_trial_library(pairs, HOST, tmp_path / "trial", copies=2)
    assert not made.wrong(local_device(), 33)
    times = made.times(device(lambda name: 1.0), MeasureConfig(33))
    assert list(times) == pairs and set(times.values()) == {2.0}
    real = made.times(local_device(), MeasureConfig(33, samples=3))
    assert list(real) == pairs and all(ms > 0 for ms in real.values())

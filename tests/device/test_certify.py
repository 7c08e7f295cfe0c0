"""Certificates: of files, with every sample; nothing in them that does not follow from these."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from canao.artifact.budgets import OtherBudgets, Scored
from canao.artifact.certificate import (
    BY_SEARCH,
    check_baseline,
    compared,
    require_baseline,
    require_budget,
    write_certificate,
)
from canao.artifact.certificate_file import load_certificate, read_certificate, unfitting
from canao.artifact.directory import Artifact
from canao.artifact.files import file_digest
from canao.artifact.manifest import sealed
from canao.artifact.measured import Others
from canao.device.base import MeasureConfig, Measurement, Timing
from canao.device.certify import DisturbedError, UnsavedError, asked_of, certify, judge
from canao.device.null import NullDevice
from canao.errors import BudgetError, DeviceError, InputError
from canao.machine import Machine
from tests.search.landscape import TEACHER, FormulaTrainer, compile_by_formula

pytestmark = pytest.mark.as_shipped

CONFIG = MeasureConfig(samples=1024)
QUIET = Others({0: 0.01, 1: 0.08}, used=(0,), waited=0.002)
BUSY = Others({0: 0.31, 1: 0.0}, used=(0,), waited=0.12)


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return compile_by_formula(FormulaTrainer(tmp_path).skeleton(TEACHER), tmp_path / "out")


def test_certificate_holds_what_was_measured(artifact: Artifact) -> None:
    device = NullDevice(7.0, noise=0.05, others=[QUIET])
    made = judge(artifact, device, 8.0, CONFIG, predicted_ms=6.5)
    assert made.holds
    assert made.latency_ms["p90"] == made.measured_ms > made.latency_ms["p50"]
    assert made.error == pytest.approx(made.measured_ms / 6.5 - 1)
    assert made.files.keys() == {"manifest.json", "model.so", "weights.bin"}
    assert made.digest == artifact.digest
    assert made.config["samples"] == 1024 and made.environment["device"] == "null"
    assert [run.at_s for run in made.runs] == [0, 7.5, 15, 22.5, 30]
    assert made.size_bytes == sum(f.stat().st_size for f in artifact.path.iterdir())
    assert "others took 1% of core 0" in str(made)
    require_budget(made)
    write_certificate(artifact.path / "certificate.json", made)
    assert load_certificate(Artifact.load(artifact.path)) == made
    assert len(made.samples_ms) == 1025  # five processes of equally many
    assert "samples_ms" not in str(made.to_dict(raw=False))


def test_the_percentile_decides(artifact: Artifact) -> None:
    def at(percentile: float) -> bool:
        device = NullDevice(8.0, noise=0.05)
        return certify(artifact, device, 8.3, CONFIG, percentile=percentile).holds

    assert at(50) and not at(99)


def test_exactly_the_budget_is_within_it(artifact: Artifact) -> None:
    assert certify(artifact, NullDevice(8.0), 8.0, CONFIG).holds


def test_fewer_samples_than_mlperf_asks_for_are_refused(artifact: Artifact) -> None:
    with pytest.raises(InputError, match=r"at least 1024 samples, not 64; .* `canao bench"):
        certify(artifact, NullDevice(8.0), 8.0, MeasureConfig(samples=64))

    class Hasty(NullDevice):
        def measure(self, artifact: Artifact, config: MeasureConfig) -> Measurement:
            """As a device that runs into `max_seconds`."""
            timing = super().measure(artifact, config)
            assert isinstance(timing, Timing)
            return replace(timing, samples_ms=timing.samples_ms[:200])

    with pytest.raises(InputError, match="at least 1024 samples, not 1000"):
        certify(artifact, Hasty(8.0), 8.0, CONFIG)
    assert not (artifact.path / "certificate.json").exists()


def test_a_miss_is_recorded_and_refused(artifact: Artifact) -> None:
    made = certify(artifact, NullDevice(9.0), 8.0, CONFIG)
    assert not made.holds
    assert load_certificate(artifact) == made
    said = r"p90 of 9 ms at most, with 95% .* budget is 8 ms .*p90 9 ms"
    with pytest.raises(BudgetError, match=said) as raised:
        require_budget(made)
    assert raised.value.exit_code == 1 and "\n" not in str(raised.value)


def test_changed_library_is_not_measured(artifact: Artifact) -> None:
    (artifact.path / "model.so").write_text("something else")
    with pytest.raises(InputError, match="content differs"):
        certify(artifact, NullDevice([]), 8.0, CONFIG)


def test_a_library_that_changes_while_it_is_measured(artifact: Artifact) -> None:
    class Swapping(NullDevice):
        def measure(self, artifact: Artifact, config: MeasureConfig) -> Measurement:
            artifact.library.write_text("a slower one")
            return super().measure(artifact, config)

    with pytest.raises(InputError, match="was changed while it was measured"):
        certify(artifact, Swapping(), 8.0, CONFIG)
    assert not (artifact.path / "certificate.json").exists()


def zeroed(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b" ")


@pytest.mark.parametrize("spoil", [zeroed, longer, Path.unlink])
@pytest.mark.parametrize("name", ["model.so", "weights.bin"])
def test_other_files_are_refused(
    artifact: Artifact, name: str, spoil: Callable[[Path], None]
) -> None:
    certify(artifact, NullDevice(), 8.0, CONFIG)
    spoil(artifact.path / name)
    with pytest.raises(InputError, match=name) as raised:
        load_certificate(artifact)
    assert "\n" not in str(raised.value)


def described(artifact: Artifact, **entries: object) -> Artifact:
    """The artifact under a manifest with other entries, as if that had been read and found good."""
    manifest = artifact.manifest | entries
    (artifact.path / "manifest.json").write_text(json.dumps(manifest))
    return Artifact(artifact.path, manifest)


@pytest.mark.parametrize("name", ["model.so", "weights.bin"])
def test_other_files_under_a_manifest_that_names_them_are_refused(
    artifact: Artifact, name: str
) -> None:
    """The manifest's own digests prove nothing: whoever changes a file can change them as well."""
    certify(artifact, NullDevice(), 8.0, CONFIG)
    zeroed(artifact.path / name)
    files = artifact.manifest["files"] | {name: file_digest(artifact.path / name)}
    forged = described(artifact, files=files)
    forged.verify()
    with pytest.raises(InputError, match=r"is not of .*manifest\.json as it is now"):
        load_certificate(forged)
    assert "manifest.json" in (unfitting(forged) or "")


def test_a_manifest_with_more_or_other_entries_is_refused(artifact: Artifact) -> None:
    """It decides results: labels, the tokenizer, the activation of the head."""
    certify(artifact, NullDevice(), 8.0, CONFIG)
    with pytest.raises(InputError, match=r"manifest\.json as it is now"):
        load_certificate(described(artifact, labels=["no", "yes"]))


def test_a_certificate_of_another_artifact_is_refused(artifact: Artifact, tmp_path: Path) -> None:
    certify(artifact, NullDevice(), 8.0, CONFIG)
    smaller = replace(TEACHER, blocks=TEACHER.blocks[:2])
    other = compile_by_formula(FormulaTrainer(tmp_path).skeleton(smaller), tmp_path / "other")
    shutil.copy(artifact.path / "certificate.json", other.path)
    with pytest.raises(InputError, match="as it is now; restore the file, or run `canao certify`"):
        load_certificate(other)


# What is known by nobody but the measurement, so that no other line of the file speaks against it.
FREE = {"date", "device", "environment", "made_by", "runs", "set_aside", "files", "budget_ms",
        "predicted_ms", "config", "others_limit", "percentile", "format", "precision",
        "other_budgets", "size_bytes", "score", "earlier", "checksum"}  # fmt: skip
DERIVED = {"holds", "measured_ms", "bound_ms", "error", "latency_ms", "disturbed", "digest"}


def edited(artifact: Artifact, **entries: object) -> None:
    """With other entries, by somebody who computes the checksum anew."""
    path = artifact.path / "certificate.json"
    path.write_text(json.dumps(sealed(json.loads(path.read_text()) | entries)))


def made_row(artifact: Artifact) -> dict[str, Any]:
    device = NullDevice(7.0, noise=0.05, others=[QUIET])
    made = judge(artifact, device, 8.0, CONFIG, predicted_ms=6.5)
    write_certificate(artifact.path / "certificate.json", made)
    row: dict[str, Any] = json.loads((artifact.path / "certificate.json").read_text())
    return row


def test_every_entry_is_either_measured_or_follows(artifact: Artifact) -> None:
    assert made_row(artifact).keys() == FREE | DERIVED


def test_what_does_not_follow_from_the_samples_is_refused(artifact: Artifact) -> None:
    row = made_row(artifact)
    other = {"holds": False, "disturbed": True, "measured_ms": row["measured_ms"] * 0.5,
             "bound_ms": row["bound_ms"] * 0.5, "error": row["error"] + 1e-6,
             "digest": "0" * 64}  # fmt: skip
    for name, value in other.items():
        edited(artifact, **row | {name: value})
        with pytest.raises(InputError, match=rf"says '{name}' .*, and its samples and files make"):
            load_certificate(artifact)
    for figure in row["latency_ms"]:
        better = row["latency_ms"] | {figure: row["latency_ms"][figure] * 0.99 - 0.01}
        edited(artifact, **row | {"latency_ms": better})
        with pytest.raises(InputError, match="says 'latency_ms'"):
            load_certificate(artifact)


def test_another_precision_than_the_librarys_is_refused(artifact: Artifact) -> None:
    row = made_row(artifact)
    assert row["precision"] == "float32"
    assert "(float32, 1025 samples of 5 processes" in str(load_certificate(artifact))
    edited(artifact, precision="int8")
    with pytest.raises(InputError, match=r'says precision "int8", and the library.s is float32'):
        load_certificate(artifact)
    assert "the library's is float32" in str(unfitting(artifact))


def test_a_budget_under_what_was_measured_makes_it_a_miss(artifact: Artifact) -> None:
    """`holds: true` over its budget: the budget, or the figures, were edited."""
    edited_row = made_row(artifact) | {"budget_ms": 5.0}
    edited(artifact, **edited_row)
    with pytest.raises(InputError, match="says 'holds' true, and its samples and files make it"):
        load_certificate(artifact)
    edited(artifact, **edited_row | {"holds": False})
    assert not load_certificate(artifact).holds


def test_edited_samples_are_refused(artifact: Artifact) -> None:
    row = made_row(artifact)
    own = row["runs"][0]["samples_ms"]
    for samples in ([s * 0.9 for s in own], sorted(own)[:-1] + [1.0]):
        edited(artifact, runs=[row["runs"][0] | {"samples_ms": samples}, *row["runs"][1:]])
        with pytest.raises(InputError, match="and its samples and files make it"):
            load_certificate(artifact)
    edited(artifact, runs=[run | {"samples_ms": run["samples_ms"][:3]} for run in row["runs"]])
    with pytest.raises(InputError, match="has 15 samples, and a certificate takes at least 1024"):
        load_certificate(artifact)
    edited(artifact, runs=row["runs"], config=row["config"] | {"samples": 2048})
    with pytest.raises(InputError, match="has 1025 samples of 2048 that its protocol asks for"):
        load_certificate(artifact)


def test_processes_that_are_too_few_or_too_near(artifact: Artifact) -> None:
    row = made_row(artifact)
    together = [ms for run in row["runs"] for ms in run["samples_ms"]]
    edited(artifact, runs=[row["runs"][0] | {"samples_ms": together}])
    with pytest.raises(InputError, match="is of 1 processes, and a certificate takes at least 5"):
        load_certificate(artifact)
    edited(artifact, runs=[run | {"at_s": run["at_s"] / 10} for run in row["runs"]])
    with pytest.raises(InputError, match=r"is of processes within 3 s, and .* at least 30 s"):
        load_certificate(artifact)
    edited(artifact, runs=row["runs"], set_aside=[row["runs"][0]])
    with pytest.raises(InputError, match="has set a process aside that nothing disturbed"):
        load_certificate(artifact)


def test_one_that_was_edited_by_hand_is_refused(artifact: Artifact) -> None:
    """Whatever in it: also what nobody else could know."""
    row = made_row(artifact)
    path = artifact.path / "certificate.json"
    for changed in ({"date": "2031-01-01T00:00:00+00:00"}, {"device": "phone"},
                    {"environment": row["environment"] | {"machine": "other"}}):  # fmt: skip
        path.write_text(json.dumps(row | changed))
        with pytest.raises(InputError, match="was changed after it was written; run `canao cert"):
            load_certificate(artifact)


def test_one_of_another_machine_is_refused_where_it_counts(artifact: Artifact) -> None:
    certify(artifact, NullDevice(machine=Machine(cpu="phone")), 8.0, CONFIG)
    stamp = Machine(cpu="phone").stamp
    assert load_certificate(artifact).machine == load_certificate(artifact, stamp).machine == stamp
    assert unfitting(artifact) is None
    with pytest.raises(InputError, match=r"was measured on phone.*, and this machine is none"):
        load_certificate(artifact, Machine(cpu="none").stamp)
    assert "says nothing of the latency here" in str(unfitting(artifact, "elsewhere"))


def refusal(artifact: Artifact) -> str:
    """What is said against the certificate by itself; '' if nothing is."""
    try:
        read_certificate(artifact.path / "certificate.json")
    except InputError as error:
        return str(error)
    return ""


WRONG = ["", 7, -1, True, None, [], {}, ["a"], {"a": 1}, 1e308, 10**400, "x\ny"]


def test_entries_of_other_types_are_refused(artifact: Artifact) -> None:
    """Everything in the file, each entry of its objects too, against every kind of JSON value: it
    is refused in one line, or it is a value that nobody can know better."""
    row = made_row(artifact)
    places = [(name,) for name in row]
    places += [(name, key) for name in ("config", "latency_ms", "files") for key in row[name]]
    places += [("runs", 0, key) for key in row["runs"][0]]
    places += [("runs", 0, "others", key) for key in row["runs"][0]["others"]]
    refused = 0
    for place in places:
        for value in WRONG:
            changed = json.loads(json.dumps(row))
            inner = changed
            for step in place[:-1]:
                inner = inner[step]
            if inner[place[-1]] == value:
                continue
            inner[place[-1]] = value
            edited(artifact, **changed)
            said = refusal(artifact)
            refused += bool(said)
            assert said or place[0] in FREE, (place, value)
            assert "\n" not in said and len(said) < 600
    assert refused > 0.8 * len(places) * len(WRONG)


def test_missing_and_unknown_entries_are_refused(artifact: Artifact) -> None:
    row = made_row(artifact)
    path = artifact.path / "certificate.json"
    for name in row:
        path.write_text(json.dumps({k: v for k, v in row.items() if k != name}))
        with pytest.raises(InputError, match=f"{name}.*run `canao certify` again"):
            load_certificate(artifact)
    edited(artifact, **row | {"signed": "yes"})
    with pytest.raises(InputError, match="unknown field signed"):
        load_certificate(artifact)


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", '{"format": 9}', "[" * 100_000, '{"format": NaN}', "\ud800"]
)
def test_damaged_certificate_is_refused(artifact: Artifact, text: str) -> None:
    (artifact.path / "certificate.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(InputError, match="run `canao certify` again"):
        load_certificate(artifact)


def test_an_earlier_format_gets_its_line(artifact: Artifact) -> None:
    old = {"format": 1, "holds": True, "measured_ms": 1.0, "digest": "0" * 64}
    (artifact.path / "certificate.json").write_text(json.dumps(old))
    with pytest.raises(InputError, match="format 1, this CANAO reads 5; run `canao certify` again"):
        load_certificate(artifact)


def test_missing_certificate(artifact: Artifact) -> None:
    with pytest.raises(InputError, match=r"no certificate\.json; run `canao certify`"):
        load_certificate(artifact)
    assert unfitting(artifact) is None


def test_device_that_fails(artifact: Artifact) -> None:
    with pytest.raises(DeviceError, match="could not be measured on null"):
        certify(artifact, NullDevice([]), 8.0, CONFIG)
    assert not (artifact.path / "certificate.json").exists()


@pytest.mark.parametrize("budget", [0, -3.0, float("nan"), float("inf"), "8"])
def test_budgets_that_are_none(artifact: Artifact, budget: float) -> None:
    with pytest.raises(InputError, match="budget"):
        certify(artifact, NullDevice(), budget, CONFIG)


# What others took


def test_a_disturbed_measurement_is_not_judged(artifact: Artifact) -> None:
    """Neither kept nor missed: nothing is written, and the exit code is that of a device."""
    for latency in (7.0, 9.0):
        said = (r"was disturbed: others took 31% of core 0 and under 1% of the rest .*; nothing is "
                r"judged: .* --others-limit")  # fmt: skip
        with pytest.raises(DisturbedError, match=said) as raised:
            certify(artifact, NullDevice(latency, others=[BUSY]), 8.0, CONFIG)
        assert raised.value.exit_code == 5 and "\n" not in str(raised.value)
        assert raised.value.certificate.measured_ms == latency
        assert len(raised.value.certificate.runs) == 10  # as many again, and none was quiet
    assert not (artifact.path / "certificate.json").exists()


def test_another_process_takes_the_place_of_a_disturbed_one(artifact: Artifact) -> None:
    """Whatever it measured; what others took of it is in the certificate, and it is said."""
    device = NullDevice([7.0, 9.0, 7.0, 6.0, 7.0, 7.0, 7.0],
                        others=[QUIET, BUSY, QUIET, BUSY, QUIET, QUIET, QUIET])  # fmt: skip
    made = certify(artifact, device, 8.0, CONFIG)
    assert made.holds and made.measured_ms == made.bound_ms == 7.0 and not made.disturbed
    assert [run.samples_ms[0] for run in made.set_aside] == [9.0, 6.0]
    assert made.told == ["2 more processes were set aside, of which one ran while others took 31% "
                         "of core 0 and under 1% of the rest"]  # fmt: skip
    assert load_certificate(artifact) == made


def test_one_slow_process_counts(artifact: Artifact) -> None:
    """p90 of all samples is that of the others, and one process in five takes 9 ms."""
    made = certify(artifact, NullDevice([7.0, 7.0, 9.0, 7.0, 7.0]), 8.0, CONFIG)
    assert made.measured_ms == 9.0 and made.bound_ms == 9.0 and not made.holds
    few = certify(artifact, NullDevice([7.0, 7.0, 9.0, 7.0, 7.0]), 8.0, CONFIG, percentile=75)
    assert few.measured_ms == 7.0 and few.bound_ms == 9.0 and not few.holds


def test_an_earlier_miss_is_not_forgotten(artifact: Artifact) -> None:
    certify(artifact, NullDevice(9.0), 8.0, CONFIG)
    certify(artifact, NullDevice(9.0), 8.0, MeasureConfig(length=8), out=artifact.path / "c8.json")
    again = certify(artifact, NullDevice(7.0), 8.0, CONFIG)
    assert again.holds and [one.holds for one in again.earlier] == [False]
    assert any("1 of 1 measurements of these files before missed the budget: at most 9 ms" in line
               for line in again.told)  # fmt: skip
    assert load_certificate(artifact) == again
    third = certify(artifact, NullDevice(7.0), 8.0, CONFIG)
    assert [one.holds for one in third.earlier] == [False, True]
    other = certify(artifact, NullDevice(7.0), 8.5, CONFIG)  # another question
    assert not other.earlier


def test_other_budgets_are_of_the_files(artifact: Artifact) -> None:
    size = sum(f.stat().st_size for f in artifact.path.iterdir()) / 1e6
    kept = certify(artifact, NullDevice(), 8.0, CONFIG, other_budgets=OtherBudgets(size_mb=size))
    assert kept.holds and f"budgets: {size:.4g} of {size:g} MB" in kept.told
    less = OtherBudgets(size_mb=0.5 * size)
    missed = certify(artifact, NullDevice(), 8.0, CONFIG, other_budgets=less)
    assert not missed.holds and load_certificate(artifact) == missed
    with pytest.raises(BudgetError, match=f"budget missed: {size:.4g} of {0.5 * size:g} MB"):
        require_budget(missed)
    score = Scored("accuracy", 0.9, 0.88, 0.92, 500, "dev.tsv", "0" * 64)
    floor = OtherBudgets(min_accuracy=0.91)
    low = certify(artifact, NullDevice(), 8.0, CONFIG, other_budgets=floor, score=score)
    assert not low.holds and "a score of 0.9000, least is 0.91" in low.missed
    assert "accuracy 0.9000 (95% confidence: 0.8800 to 0.9200) on 500 examples of dev.tsv" in (
        low.told
    )
    assert load_certificate(artifact) == low
    again = certify(artifact, NullDevice(), 8.0, CONFIG, other_budgets=floor)
    assert again.score == score and not again.holds  # the same files say the same


def test_a_regression_against_a_baseline(artifact: Artifact) -> None:
    before = certify(artifact, NullDevice(7.0), 8.0, CONFIG)
    for ms, most in ((7.3, 5.0), (7.6, 9.0), (3.0, 0.0)):
        require_baseline(certify(artifact, NullDevice(ms), 9.0, CONFIG), before, most)
    slower = certify(artifact, NullDevice(7.5), 8.0, CONFIG)
    with pytest.raises(BudgetError, match=r"regression of more than 5 %: latency 7\.5 ms, \+7\.1%"):
        require_baseline(slower, before, 5.0)
    assert {one.name: one.grown for one in compared(slower, before)} == {
        "latency": pytest.approx(0.5 / 7), "memory": 0.0, "size": 0.0}  # fmt: skip


def test_a_baseline_of_another_question_is_refused(artifact: Artifact) -> None:
    before = certify(artifact, NullDevice(7.0), 8.0, CONFIG)
    path, none = artifact.path / "certificate.json", OtherBudgets()

    def asked(device: NullDevice, config: MeasureConfig = CONFIG) -> Any:
        return asked_of(device, 9.0, config, 90.0, none)

    check_baseline(before, path, asked(NullDevice()))
    with pytest.raises(InputError, match=r"under another protocol \(length 128, now 8\)"):
        check_baseline(before, path, asked(NullDevice(), MeasureConfig(length=8)))
    with pytest.raises(InputError, match=r"and this machine is phone"):
        check_baseline(before, path, asked(NullDevice(machine=Machine(cpu="phone"))))


@pytest.mark.parametrize("wrong", [
    {"size_mb": -1.0}, {"size_mb": 0.0}, {"size_mb": float("nan")}, {"memory_mb": float("inf")},
    {"min_accuracy": 90.0}, {"min_accuracy": float("nan")},
])  # fmt: skip
def test_other_budgets_that_are_none(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        OtherBudgets(**wrong)


def test_more_tokens_than_the_model_takes(artifact: Artifact) -> None:
    with pytest.raises(InputError, match=r"length 9999 is over the model's maximum, \d+; give"):
        certify(artifact, NullDevice([]), 8.0, MeasureConfig(length=9999))


def test_the_limit_can_be_lifted(artifact: Artifact) -> None:
    made = certify(artifact, NullDevice(others=[BUSY]), 8.0, CONFIG, others_limit=0.31)
    assert made.holds and not made.disturbed
    assert load_certificate(artifact).others == BUSY
    for limit in (-0.1, 1.1, float("nan"), True):
        with pytest.raises(InputError, match="others-limit"):
            certify(artifact, NullDevice(), 8.0, CONFIG, others_limit=limit)


def test_cores_beside_it_count_half(artifact: Artifact) -> None:
    assert certify(artifact, NullDevice(others=[QUIET]), 8.0, CONFIG).holds
    near = replace(QUIET, cores={0: 0.01, 1: 0.12})
    with pytest.raises(DisturbedError, match=r"and 12% of the rest \(limit 5% .* 10% of the rest"):
        certify(artifact, NullDevice(others=[near]), 8.0, CONFIG)
    own = replace(QUIET, used=(0, 1))
    with pytest.raises(DisturbedError, match=r"others took 8% of core 1 \("):
        certify(artifact, NullDevice(others=[own]), 8.0, CONFIG)


def test_waiting_counts(artifact: Artifact) -> None:
    waited = replace(QUIET, waited=0.2)
    with pytest.raises(DisturbedError, match="others took 20% of core 0"):
        certify(artifact, NullDevice(others=[waited]), 8.0, CONFIG)


# Where it is written


def searched(artifact: Artifact) -> bytes:
    """A search's certificate beside the artifact."""
    made = judge(artifact, NullDevice(7.0), 8.0, CONFIG, predicted_ms=6.5)
    assert made.made_by == BY_SEARCH
    write_certificate(artifact.path / "certificate.json", made)
    return (artifact.path / "certificate.json").read_bytes()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"budget_ms": 9.0}, "budget 8.0, now 9.0"),
        ({"percentile": 1.0}, "percentile 90.0, now 1.0"),
        ({"config": MeasureConfig(length=8)}, "length 128, now 8"),
        ({"config": MeasureConfig(samples=4096)}, "samples 1024, now 4096"),
        ({"config": MeasureConfig(threads=2)}, "threads 1, now 2"),
        ({"config": MeasureConfig(cores=(1,))}, r"cores \[\], now \[1\]"),
        ({"device": NullDevice(machine=Machine(cpu="another"))}, "machine none .*, now another"),
    ],
)
def test_a_search_s_certificate_is_not_replaced_by_another_protocol_s(
    artifact: Artifact, changes: dict[str, Any], named: str, tmp_path: Path
) -> None:
    before = searched(artifact)
    asked = {"device": NullDevice([]), "budget_ms": 8.0, "config": CONFIG} | changes
    with pytest.raises(InputError, match=f"{named}.* not replaced; .* --out"):
        certify(artifact, **asked)
    assert (artifact.path / "certificate.json").read_bytes() == before
    # The same file by another name is the same file.
    with pytest.raises(InputError, match="is not replaced"):
        certify(artifact, **asked, out=artifact.path / "." / "certificate.json")

    given = asked["device"] if "device" in changes else NullDevice(2.0)
    elsewhere = certify(artifact, **asked | {"device": given}, out=tmp_path / "mine.json")
    assert read_certificate(tmp_path / "mine.json") == elsewhere
    assert (artifact.path / "certificate.json").read_bytes() == before


def test_a_search_s_certificate_is_measured_again_under_its_protocol(artifact: Artifact) -> None:
    before = searched(artifact)
    again = certify(artifact, NullDevice(7.5), 8.0, CONFIG)
    assert (again.made_by, again.predicted_ms) == (BY_SEARCH, 6.5)
    assert again.error == pytest.approx(7.5 / 6.5 - 1)
    assert (artifact.path / "certificate.json").read_bytes() != before
    assert load_certificate(artifact) == again


def test_other_certificates_are_replaced(artifact: Artifact) -> None:
    certify(artifact, NullDevice(), 8.0, CONFIG)
    assert certify(artifact, NullDevice(), 9.0, MeasureConfig(length=8)).budget_ms == 9.0
    assert load_certificate(artifact).config["length"] == 8
    (artifact.path / "certificate.json").write_text("{}")
    certify(artifact, NullDevice(), 8.0, CONFIG)
    assert load_certificate(artifact).budget_ms == 8.0


def test_places_that_cannot_be_written_are_found_before_anything_is_measured(
    artifact: Artifact, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    places = {
        tmp_path / "none" / "c.json": "No such file",
        tmp_path / "folder": "is not a certificate",
        tmp_path / "notes.txt": "is not a certificate",
        tmp_path / "notes.txt" / "c.json": "Not a directory",
        artifact.path / "weights.bin": "is not a certificate",
        Path("/proc/certificate.json"): "cannot be written",
    }
    for place, said in places.items():
        with pytest.raises(InputError, match=f"{place}.*{said}.* --out") as raised:
            certify(artifact, NullDevice([]), 8.0, CONFIG, out=place)
        assert "\n" not in str(raised.value)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    artifact.verify()


def test_a_full_disk_is_found_before_anything_is_measured(artifact: Artifact) -> None:
    with limited_files(50_000), pytest.raises(InputError, match=r"nothing was measured: .* --out"):
        certify(artifact, NullDevice([]), 8.0, CONFIG)
    assert not list(artifact.path.glob(".*"))


class limited_files:  # noqa: N801
    """No file may grow beyond so many bytes, as if the disk were full."""

    def __init__(self, most: int) -> None:
        self.before, self.most = resource.getrlimit(resource.RLIMIT_FSIZE), most

    def __enter__(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.most, self.before[1]))

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


def test_a_measurement_is_not_lost_to_a_directory_that_is_gone(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out-there").mkdir()
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))

    class Removing(NullDevice):
        def measure(self, artifact: Artifact, config: MeasureConfig) -> Measurement:
            if (tmp_path / "out-there").exists():
                (tmp_path / "out-there").rmdir()
            return super().measure(artifact, config)

    place = tmp_path / "out-there" / "c.json"
    with pytest.raises(UnsavedError, match=r"No such file.*it is kept in") as raised:
        certify(artifact, Removing(7.0), 8.0, CONFIG, out=place)
    assert raised.value.exit_code == 2 and "\n" not in str(raised.value)
    assert raised.value.saved is not None
    assert read_certificate(raised.value.saved) == raised.value.certificate
    shutil.copy(raised.value.saved, artifact.path / "certificate.json")
    assert load_certificate(artifact).holds


def test_a_measurement_is_not_lost_to_a_disk_that_fills_up(artifact: Artifact) -> None:
    limit = limited_files(2_000)

    class Filling(NullDevice):
        def measure(self, artifact: Artifact, config: MeasureConfig) -> Measurement:
            limit.__enter__()
            return super().measure(artifact, config)

    try:
        with pytest.raises(UnsavedError, match=r"cannot be written .*; free some space") as raised:
            certify(artifact, Filling(7.0), 8.0, CONFIG)
    finally:
        limit.__exit__()
    assert raised.value.saved is None and raised.value.certificate.holds
    assert not list(artifact.path.glob(".*")) and not (artifact.path / "certificate.json").exists()

"""`auto`: the fastest library that loses little enough."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from canao.accuracy import fastest
from canao.accuracy.fastest import candidates, compile_fastest
from canao.artifact.directory import Artifact
from canao.compiler.pipeline import compile_model, target_for
from canao.device.base import MeasureConfig, Timing
from canao.device.null import NullDevice
from canao.errors import AccuracyError, InputError
from canao.precision.quantize import PRECISIONS
from canao.target import Target, get_target
from tests.compiler.models import classifier, decoder
from tests.compiler.test_families import QUICK

HOST = get_target()
VNNI = Target("server", "avx512", "x86_64-linux-gnu.2.28", "x86_64_v4",
              extensions=("avx512vnni", "avx512bf16"))  # fmt: skip


def test_half_precision_is_a_candidate_where_there_are_instructions_for_it() -> None:
    assert candidates(get_target("aarch64-linux")) == ("float32", "int8")
    assert candidates(VNNI) == ("float32", "bf16", "int8")


def test_seven_bits_are_a_candidate_where_they_are_multiplied_in_another_way() -> None:
    avx2 = get_target("x86_64-linux")
    assert candidates(avx2) == ("float32", "int8", "int8-7bit")
    assert "int8-7bit" not in candidates(replace(avx2, extensions=("avxvnni",)))
    assert "int8-7bit" in candidates(VNNI.with_isa("avx2,avx512vnni"))


def test_weights_alone_are_a_candidate_for_decoders() -> None:
    """Between what is rounded less and what is rounded more."""
    assert candidates(get_target("aarch64-linux"), resumes=True) == (
        "float32", "int8-weights", "int8"
    )  # fmt: skip
    assert candidates(VNNI, resumes=True) == ("float32", "bf16", "int8-weights", "int8")


def test_the_instruction_set_follows_the_precision() -> None:
    assert {p: target_for(VNNI, p).isa for p in PRECISIONS} == {
        "float32": "avx512", "bf16": "avx512bf16", "fp16": "avx512", "int8": "avx512vnni",
        "int8-7bit": "avx512vnni", "int8-weights": "avx512",
    }  # fmt: skip
    assert target_for(VNNI, "int8", "bf16").isa == "avx512bf16"  # products of both
    named = VNNI.with_isa("avx2")  # what the user names is what all is compiled for
    assert target_for(named, "int8").isa == "avx2"


def test_a_precision_without_instructions_is_refused_by_name(tmp_path: Path) -> None:
    target = HOST.with_isa("scalar")
    words = r"bf16: scalar has no instructions .* for float32, int8, int8-7bit, int8-weights: give"
    with pytest.raises(InputError, match=words):
        compile_model(classifier("odd", layers=1), tmp_path / "out", target=target,
                      precision="bf16")  # fmt: skip
    assert not (tmp_path / "out").exists()
    assert target_for(target, "bf16", allow_emulation=True).isa == "scalar"


def test_the_fastest_is_taken_and_all_are_named(tmp_path: Path, monkeypatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(fastest, "_times", lambda made, *_: dict.fromkeys(made, 2.0) | {"int8": 1})
    found = compile_fastest(classifier("odd", layers=1), tmp_path / "out", progress=told.append,
                            build_flags=QUICK)  # fmt: skip
    assert found.artifact.manifest["precision"] == "int8"
    assert {t[0] for t in found.artifact.manifest["tried"]} == set(candidates(HOST))
    assert [t.ms for t in found.tried if t.precision == "int8"] == [1]


def test_what_is_not_clearly_faster_loses_to_what_is_more_precise() -> None:
    made = dict.fromkeys(("float32", "bf16", "int8"))
    assert fastest._chosen(made, {"float32": 1.0, "bf16": 0.99, "int8": 0.98}) == "float32"
    assert fastest._chosen(made, {"float32": 1.0, "bf16": 0.5, "int8": 0.49}) == "bf16"
    assert fastest._chosen(made, {"float32": 1.0, "bf16": 0.5, "int8": 0.3}) == "int8"
    assert fastest._chosen(made, {}) == "int8"


def test_libraries_are_timed_here(tmp_path: Path) -> None:
    found = compile_fastest(classifier("odd", layers=1), tmp_path / "out", build_flags=QUICK)
    times = {t.precision: t.ms for t in found.tried}
    assert set(times) == set(candidates(HOST)) and all(ms and ms > 0 for ms in times.values())
    assert found.artifact.manifest["precision"] in times


def test_a_decoder_is_timed_reading_and_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time of a text, and that of as many tokens after it as it has."""
    device = NullDevice(lambda a: 10.0 if a.precision == "int8" else 20.0)
    taken = {"float32": 3.0, "int8-weights": 1.0}

    def one_token(artifact: Artifact, config: MeasureConfig) -> Timing:
        timing = device.measure(artifact, config)
        assert isinstance(timing, Timing)
        return replace(timing, samples_ms=(taken.get(artifact.precision, 2.0),) * 3)

    monkeypatch.setattr(device, "measure_next", one_token)
    monkeypatch.setattr(fastest, "local_device", lambda: device)
    found = compile_fastest(decoder(layers=1, max_length=100), tmp_path / "out", build_flags=QUICK)
    times = {t.precision: t.ms for t in found.tried}
    assert times["float32"] == 20.0 + 50 * 3.0 and times["int8-weights"] == 20.0 + 50 * 1.0
    assert times["int8"] == 10.0 + 50 * 2.0
    assert found.artifact.precision == "int8-weights"
    assert {t.why for t in found.tried} == {"50 tokens read, and as many written"}


def test_a_precision_that_is_far_is_left_out(tmp_path: Path, monkeypatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(fastest, "NEAR_LARGEST", -1.0)
    found = compile_fastest(classifier("odd", layers=1), tmp_path / "out", progress=told.append,
                            build_flags=QUICK)  # fmt: skip
    assert found.artifact.manifest["precision"] == "float32"
    assert any("int8 is left out: on random texts" in line for line in told)


def test_data_that_are_no_use_are_refused_and_not_a_reason_for_float32(tmp_path: Path) -> None:
    """What is wrong with the data, or an option, is no loss of accuracy."""
    data = tmp_path / "dev.tsv"
    data.write_text("text\tlabel\nfine\tno_label_of_this_model\nbad\tnor_this\n" * 4)
    for options in ({"data": data}, {"data": data, "max_loss": -1.0}):
        with pytest.raises(InputError, match=r"\w") as refused:
            compile_fastest(classifier("odd", layers=1), tmp_path / "out", build_flags=QUICK,
                            **options)  # fmt: skip
        assert not isinstance(refused.value, AccuracyError)
        assert not (tmp_path / "out").exists()

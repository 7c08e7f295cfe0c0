"""The self-check of libraries: how long they take here, and which of several is fast enough."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import canao
from canao.build import build_program, runtime_files
from canao.compiler.pipeline import compile_model
from canao.errors import DeviceError, InputError
from canao.inference.compiled_model import CompiledModel
from canao.target import get_target
from tests.compiler.models import classifier, decoder

HOST = get_target("host")
# Prints what canao_pick finds of the students that are named: index, whether it keeps the budget,
# its status, and its first output for a text of three tokens.
MAIN = r"""
#include "canao_pick.h"
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    struct canao_student students[8];
    const struct canao_question question = {1, NULL, 16, 64, 25, atof(argv[1])};
    const int count = (argc - 2) / 2;
    for (int i = 0; i < count; i++)
        students[i] = (struct canao_student){argv[2 + 2 * i], argv[3 + 2 * i]};
    struct canao_picked picked;
    const int status = canao_pick(students, count, &question, &picked);
    printf("%d %d %d", status, picked.index, picked.keeps);
    if (!status) {
        const int32_t ids[3] = {1, 2, 3}, types[3] = {0, 0, 0};
        const int32_t *in[2] = {ids, types};
        float *out[1] = {calloc((size_t)picked.output_size(0, 3), sizeof(float))};
        printf(" %d %.6f %d", picked.run(picked.model, in, 3, out), out[0][0], picked.ms > 0);
        free(out[0]);
    }
    else
        printf(" %s", picked.why);
    printf("\n");
    canao_unpick(&picked);
    return 0;
}
"""


@pytest.fixture(scope="module")
def students(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The better one first, which takes several times as long."""
    folder = tmp_path_factory.mktemp("students")
    places = [folder / "large", folder / "small"]
    for place, layers in zip(places, (6, 1), strict=True):
        compile_model(classifier("small", layers=layers), place)
    return places


def took(place: Path) -> float:
    with CompiledModel(place) as model:
        return model.time(16, 64, 25)


def test_the_first_that_keeps_the_budget_is_picked(students: list[Path]) -> None:
    large, small = map(took, students)
    assert large > 1.5 * small
    for budget, index, keeps in ((50 * large, 0, True), (0.5 * (small + large), 1, True),
                                 (0.01 * small, 1, False)):  # fmt: skip
        picked = canao.pick(students, budget, length=16, runs=64, percentile=25)
        with picked.model as model:
            assert model.artifact.path == students[index] and picked.keeps == keeps
            want = CompiledModel(students[index])(np.array([1, 2, 3]))
            assert np.array_equal(model(np.array([1, 2, 3])), want)
        assert [place for place, _ in picked.tried] == students[: index + 1]


def test_students_of_a_run(students: list[Path], tmp_path: Path) -> None:
    for place in students:
        shutil.copytree(place, tmp_path / place.name / "artifact")
    rows = [{"budget_ms": 8.0, "artifact": "large/artifact"},
            {"budget_ms": 4.0, "artifact": "", "why": "none fits"},
            {"budget_ms": 2.0, "artifact": "small/artifact"}]  # fmt: skip
    file = tmp_path / "students.json"
    file.write_text(json.dumps({"format": 1, "students": rows}))
    picked = canao.pick(tmp_path, 1e6, length=16, runs=8)
    assert picked.model.artifact.path == tmp_path / "large" / "artifact"
    picked.model.close()
    elsewhere = ([{"budget_ms": 1.0, "artifact": name}] for name in ("../other", "/etc", "a/../.."))
    for spoilt in ({"format": 2, "students": rows}, {"format": 1},
                   *({"format": 1, "students": one} for one in elsewhere)):  # fmt: skip
        file.write_text(json.dumps(spoilt))
        with pytest.raises(InputError, match=r"students\.json"):
            canao.pick(tmp_path, 1.0)


def test_what_does_not_run_here_is_passed_over(students: list[Path], tmp_path: Path) -> None:
    broken = shutil.copytree(students[0], tmp_path / "broken")
    (broken / "model.so").write_bytes(b"no library")
    picked = canao.pick([broken, students[1]], 1e6, length=16, runs=8)
    picked.model.close()
    assert picked.model.artifact.path == students[1] and "model.so" in str(picked.tried[0][1])
    with pytest.raises(DeviceError, match=r"none of 1 students runs here: .*model\.so") as raised:
        canao.pick([broken], 1e6)
    assert "\n" not in str(raised.value)
    with pytest.raises(InputError, match="no students"):
        canao.pick([], 1.0)
    for place in (tmp_path / "typo", [students[0], tmp_path]):
        with pytest.raises(InputError, match="holds no library; give a run directory"):
            canao.pick(place, 1.0)
    for wrong, named in (({"budget_ms": float("nan")}, "budget nan"), ({"budget_ms": "5"}, "'5'"),
                         ({"length": 0}, "length 0"), ({"runs": 0}, "runs 0"),
                         ({"percentile": 200}, "percentile 200"), ({"threads": 0}, "threads"),
                         ({"budget_ms": None}, "budget None")):  # fmt: skip
        with pytest.raises(InputError, match=named):
            canao.pick(students, **{"budget_ms": 1.0, **wrong})


def test_times_that_cannot_be_taken(students: list[Path]) -> None:
    with CompiledModel(students[1]) as model:
        for asked in ({"length": 0}, {"length": 10**6}, {"length": 4, "runs": 0},
                      {"length": 4, "percentile": 0.0}, {"length": 4, "percentile": 101.0},
                      {"length": 4, "runs": 2**31}, {"length": True}):  # fmt: skip
            with pytest.raises(InputError, match=r"length|runs|percentile"):
                model.time(**asked)
        assert model.time(1, 1, 100.0) > 0


def test_a_decoder_begins_anew_after_it(tmp_path: Path) -> None:
    compile_model(decoder("three_heads", layers=1, max_length=32), tmp_path / "decoder")
    with CompiledModel(tmp_path / "decoder") as model:
        model.extend(np.array([1, 2, 3]))
        assert model.time(8, 4) > 0 and model.sequence_length == 0
        model.extend(np.array([1, 2, 3]))
        assert model.sequence_length == 3


@pytest.mark.parametrize("flags", [(), ("-fsanitize=undefined", "-fno-sanitize-trap=undefined")])
def test_in_c(students: list[Path], tmp_path: Path, flags: tuple[str, ...]) -> None:
    program = build_program({"main.c": MAIN, **runtime_files("canao_pick.h")}, HOST, None, flags)

    def pick(budget: float, *places: Path) -> list[str]:
        named = [str(p / n) for p in places for n in ("model.so", "weights.bin")]
        done = subprocess.run([program, str(budget), *named], capture_output=True, text=True)
        assert done.returncode == 0 and not done.stderr, done.stderr[:2000]
        return done.stdout.split()

    want = [f"{float(CompiledModel(p)(np.array([1, 2, 3])).ravel()[0]):.6f}" for p in students]
    assert pick(1e6, *students) == ["0", "0", "1", "0", want[0], "1"]
    assert pick(1e-6, *students) == ["0", "1", "0", "0", want[1], "1"]
    assert pick(1e6, tmp_path, students[1]) == ["0", "1", "1", "0", want[1], "1"]
    assert pick(1e6, tmp_path)[:3] == ["-1", "-1", "0"]
    assert "cannot open shared object" in " ".join(pick(1e6, tmp_path))
    assert pick(1e6) == ["-1", "-1", "0", "no", "students", "were", "given"]
    assert pick(float("nan"), *students)[:3] == ["1", "-1", "0"]
    crossed = tmp_path / "crossed"
    crossed.mkdir()
    shutil.copy(students[0] / "model.so", crossed)
    shutil.copy(students[1] / "weights.bin", crossed)
    assert pick(1e6, crossed)[:2] == ["5", "-1"]  # CANAO_FORMAT
    assert "belongs to another library" in " ".join(pick(1e6, crossed))

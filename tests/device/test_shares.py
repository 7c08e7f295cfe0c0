"""Work shared out by what each thread's core can do, by the system's own scale."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from canao.artifact.directory import Artifact
from canao.build import build_library, build_program, runtime_files
from canao.compiler.loading import load_model
from canao.compiler.pipeline import compile_graph, compile_model
from canao.inference.compiled_model import CompiledModel
from canao.lower.scheduling import default_plans
from canao.machine import local_machine
from canao.target import get_target
from tests.compiler.models import classifier

# Prints the share of each thread of a total, as the kernels compute it.
SHARES = """
#include "canao_runtime.h"
#include <stdio.h>
int main(void)
{
    const int64_t shares[] = {0, 1024, 2048, 2304, 2560};
    const int64_t totals[] = {0, 1, 4, 7, 128, 1000003};
    for (int n = 0; n < 6; n++)
        for (int even = 0; even < 2; even++) {
            for (int t = 0; t < 4; t++) {
                const struct canao_call call = {.thread = t, .threads = 4,
                                                .shares = even ? NULL : shares};
                int64_t begin, end;
                canao_share(totals[n], &call, &begin, &end);
                printf("%lld %lld ", (long long)begin, (long long)end);
            }
            printf("\\n");
        }
    return 0;
}
"""


def test_shares_cover_all_work_once() -> None:
    import subprocess

    files = {"main.c": SHARES, **runtime_files("canao_runtime.h")}
    program = build_program(files, get_target())
    done = subprocess.run([program], capture_output=True, text=True, check=True)
    rows = [[int(word) for word in line.split()] for line in done.stdout.splitlines()]
    totals = [total for total in (0, 1, 4, 7, 128, 1000003) for _ in range(2)]
    for row, total in zip(rows, totals, strict=True):
        assert row[0] == 0 and row[-1] == total
        assert row[1:-1:2] == row[2::2]  # each begins where the one before it ends
    uneven, even = rows[8], rows[9]
    assert [b - a for a, b in zip(even[::2], even[1::2], strict=True)] == [32] * 4
    # Two cores of 1024 and two of 256: eight tenths and two.
    assert [b - a for a, b in zip(uneven[::2], uneven[1::2], strict=True)] == [51, 51, 13, 13]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as Linux describes processors in: the first core can do four times the second."""
    cpus = tmp_path_factory.mktemp("cpus")
    for core, capacity in ((0, "1024"), (1, "256")):
        (cpus / f"cpu{core}").mkdir()
        (cpus / f"cpu{core}" / "cpu_capacity").write_text(f"{capacity}\n")
    return cpus


@pytest.mark.skipif(local_machine().cores[:2] != (0, 1), reason="takes cores 0 and 1")
@pytest.mark.parametrize("told", [True, False])
def test_a_mixed_team_gives_the_same(
    places: Path, told: bool, tmp_path: Path, sentences
) -> None:
    """To the bit, whatever the shares, also where one core tells nothing."""
    artifact = compile_model(classifier("small"), tmp_path / "out")
    host = get_target()
    source = compile_graph(load_model(classifier("small"))[1], host, planner=default_plans).source
    cpus = tmp_path / "cpus"
    shutil.copytree(places, cpus)
    if not told:
        (cpus / "cpu1" / "cpu_capacity").write_text("none\n")
    library = build_library([source], extra=(f'-DCANAO_CPUS="{cpus}"',))
    shutil.copyfile(library, artifact.path / "model.so")
    with CompiledModel(compile_model(classifier("small"), tmp_path / "even")) as even:
        want = [even(*sentences(length, 99, 2)) for length in (1, 7, 17, 33, 128)]
    with CompiledModel(Artifact(artifact.path, artifact.manifest), 2, cores=(0, 1)) as mixed:
        for length, expected in zip((1, 7, 17, 33, 128), want, strict=True):
            assert np.array_equal(mixed(*sentences(length, 99, 2)), expected)

"""Batches of texts of mixed lengths: the same bits as one text at a time, in Python and in C."""

from __future__ import annotations

import ctypes
import os
import threading
from pathlib import Path

import numpy as np
import pytest

import canao
from canao.artifact.directory import Artifact
from canao.build import get_toolchain
from canao.compiler.pipeline import compile_model
from canao.inference.compiled_model import CompiledModel
from canao.target import get_target
from tests.compiler import programs
from tests.compiler.models import classifier, encoder
from tests.compiler.test_programs import RACES, SANITIZERS, gcc
from tests.conftest import LENGTHS

MOST = 128
OK, ARGUMENT, LENGTH, TOKEN, BUSY = 0, 1, 2, 3, 8
HOST = get_target()
# Few texts, many, one that is much longer than the rest: shared out, together, and both.
MIXES = ((), (17,), (33, 33), (128, 1, 1), (7, 8, 8, 8, 8), LENGTHS, LENGTHS[::-1] * 4)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return compile_model(classifier("odd", max_length=MOST), tmp_path_factory.mktemp("b") / "out")


@pytest.fixture(scope="module")
def one_by_one(artifact: Artifact) -> CompiledModel:
    return CompiledModel(artifact)


@pytest.fixture
def texts(sentences):
    """Texts of the given lengths, (ids, type ids) each; no two alike."""

    def make(lengths) -> list[tuple[np.ndarray, np.ndarray]]:
        drawn = [sentences(n, 99, 2) for n in lengths]
        return [((ids + i) % 99, types) for i, (ids, types) in enumerate(drawn)]

    return make


@pytest.mark.parametrize("threads", (1, 2, 3))
def test_the_same_bits_as_one_by_one(artifact, one_by_one, threads: int, texts) -> None:
    with CompiledModel(artifact, threads) as compiled:
        for lengths in MIXES:
            batch = texts(lengths)
            got = compiled.run_batch(batch)
            assert len(got) == len(batch)
            for result, text in zip(got, batch, strict=True):
                want = one_by_one(*text)
                assert result.dtype == np.float32 and result.shape == want.shape
                np.testing.assert_array_equal(result, want)
            for text in batch[:2]:  # a batch leaves nothing behind
                np.testing.assert_array_equal(compiled(*text), one_by_one(*text))


def test_hidden_states_have_their_own_lengths(texts, tmp_path: Path) -> None:
    artifact = compile_model(encoder("prime", layers=1, max_length=MOST), tmp_path / "out")
    batch = texts(LENGTHS)
    with CompiledModel(artifact) as one, CompiledModel(artifact, 2) as two:
        for text, got in zip(batch, two.run_batch(batch), strict=True):
            assert got.shape == (len(text[0]), 37) and got.base.size == got.size
            np.testing.assert_array_equal(got, one(*text))


def test_forms_of_a_text(one_by_one: CompiledModel, texts) -> None:
    ids, types = texts((9,))[0]
    plain, typed = one_by_one(ids), one_by_one(ids, types)
    forms = [ids, ids.tolist(), tuple(ids.tolist()), ids.astype(np.int64), ids[::-1][::-1], [ids],
             {"input_ids": ids}, [ids, types], (ids.tolist(), types.tolist()),
             {"token_type_ids": types, "input_ids": ids}]  # fmt: skip
    got = one_by_one.run_batch(forms)
    for i, result in enumerate(got):
        np.testing.assert_array_equal(result, plain if i < 7 else typed)
    np.testing.assert_array_equal(one_by_one.run_batch(np.stack([ids, ids]))[1], plain)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ([99], ("input_ids", "99", "98")),
        ([], ("input_ids",)),
        (7, ("input_ids", "shape []")),
        ("wake me", ("input_ids", "whole")),
        ([[1, 2], [0]], ("token_type_ids", "shape")),
        (([1, 2], [0, 2]), ("token_type_ids", "2")),
        (([1], [0], [0]), ("3 inputs",)),
        (np.ones((2, 2), np.int32), ("input_ids", "[2, 2]", "[s]")),
        ([1] * (MOST + 1), ("129", "128")),
        ([1.5], ("float64", "whole")),
        ({"token_type_ids": [1]}, ("input_ids", "missing")),
        ({"input_ids": [1], "attention_mask": [1]}, ("attention_mask",)),
    ],
)
def test_the_wrong_sequence_is_named(one_by_one: CompiledModel, text, words) -> None:
    with pytest.raises(canao.InputError, match=r"^sequence 2: ") as error:
        one_by_one.run_batch([[1], [2, 3], text])
    assert all(word in str(error.value) for word in words), error.value


def test_batches_from_several_threads(artifact, one_by_one, texts) -> None:
    batch = texts(LENGTHS)
    want = [one_by_one(*text) for text in batch]
    wrong: list[int] = []
    with CompiledModel(artifact, 2) as compiled:

        def call() -> None:
            for _ in range(5):
                got = compiled.run_batch(batch)
                wrong.extend(1 for g, w in zip(got, want, strict=True) if not (g == w).all())

        callers = [threading.Thread(target=call) for _ in range(3)]
        for t in callers:
            t.start()
        for t in callers:
            t.join()
    assert not wrong


def test_closed_and_old_libraries(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = CompiledModel(artifact)

    class Old:
        """A library of before there were batches."""

        canao_output_size = compiled._library.canao_output_size

    with monkeypatch.context() as patch:
        patch.setattr(compiled, "_library", Old())
        assert compiled.run_batch([]) == []
        with pytest.raises(canao.DeviceError, match="compile again"):
            compiled.run_batch([[1]])
    compiled.close()
    with pytest.raises(canao.InputError, match="closed"):
        compiled.run_batch([[1]])


class Batch:
    """Arguments of canao_run_batch as ctypes arrays, each of which a test may spoil."""

    def __init__(self, lengths) -> None:
        self.count = len(lengths)
        self.ids = [[np.ones(n, np.int32), np.zeros(n, np.int32)] for n in lengths]
        self.out = [np.full(3, -1, np.float32) for _ in lengths]
        self.inputs = [[a.ctypes.data for a in text] for text in self.ids]
        self.outputs = [[a.ctypes.data] for a in self.out]
        self.lengths = list(lengths)
        self.missing = ""  # argument that is null
        self.missing_row: tuple[str, int] | None = None

    def run(self, model: CompiledModel, handle=None) -> int:
        arguments = {name: self._rows(name) for name in ("inputs", "outputs")}
        arguments["lengths"] = (ctypes.c_int32 * len(self.lengths))(*self.lengths)
        if self.missing:
            arguments[self.missing] = None
        return model._library.canao_run_batch(
            model._handle if handle is None else handle, self.count, arguments["inputs"],
            arguments["lengths"], arguments["outputs"],
        )  # fmt: skip

    def _rows(self, name: str) -> ctypes.Array:
        cells = getattr(self, name)
        rows = [(ctypes.c_void_p * len(row))(*row) for row in cells]
        table = (ctypes.c_void_p * len(rows))(*(ctypes.addressof(row) for row in rows))
        table.rows = rows  # kept as long as the table
        if self.missing_row and self.missing_row[0] == name:
            table[self.missing_row[1]] = None
        return table

    def untouched(self) -> bool:
        return all((a == -1).all() for a in self.out)


def spoil(batch: Batch, what: str) -> int:
    """Make one argument wrong in the last text; the status that is due."""
    last = batch.count - 1
    if what in ("inputs", "lengths", "outputs"):
        batch.missing = what
        return ARGUMENT
    if what in ("input row", "output row"):
        batch.missing_row = (what.split()[0] + "s", last)
        return ARGUMENT
    if what in ("input", "output"):
        getattr(batch, what + "s")[last][-1] = None
        return ARGUMENT
    if what == "count":
        batch.count = -1
        return ARGUMENT
    if what in ("no tokens", "too long"):
        batch.lengths[last] = 0 if what == "no tokens" else MOST + 1
        return LENGTH
    batch.ids[last][-1][-1] = -1 if what == "negative" else 2
    return TOKEN


@pytest.mark.parametrize("what", (
    "inputs", "lengths", "outputs", "input row", "output row", "input", "output", "count",
    "no tokens", "too long", "negative", "beyond the table",
))  # fmt: skip
@pytest.mark.parametrize("threads", (1, 2))
def test_bad_arguments_return_codes(artifact: Artifact, what: str, threads: int) -> None:
    """One wrong text, the last: a status, and no output of any text is written."""
    with CompiledModel(artifact, threads) as model:
        batch = Batch((5, 17, 8, 3))
        assert batch.run(model) == OK and not batch.untouched()
        batch = Batch((5, 17, 8, 3))
        due = spoil(batch, what)
        assert batch.run(model) == due and batch.untouched()
        assert Batch((5, 17, 8, 3)).run(model) == OK


def test_busy(artifact: Artifact) -> None:
    """Batches of several threads at once: each is run, or told that another is under way."""
    done: list[bool] = []
    with CompiledModel(artifact, 2) as model:

        def call() -> None:
            for _ in range(20):
                batch = Batch((5, 17, 8))
                status = batch.run(model)
                done.append(status == (BUSY if batch.untouched() else OK))

        callers = [threading.Thread(target=call) for _ in range(3)]
        for t in callers:
            t.start()
        for t in callers:
            t.join()
    assert len(done) == 60 and all(done)


def test_no_model_and_no_texts(one_by_one: CompiledModel) -> None:
    assert Batch((1,)).run(one_by_one, ctypes.c_void_p()) == ARGUMENT
    function = one_by_one._library.canao_run_batch
    assert function(one_by_one._handle, 0, None, None, None) == OK


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no pinning here")
def test_the_caller_gets_its_cores_back(artifact: Artifact, texts) -> None:
    before = os.sched_getaffinity(0)
    with CompiledModel(artifact, 1, cores=(min(before),)) as compiled:
        compiled.run_batch(texts((5, 9)))
        assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize("flags", (SANITIZERS, RACES), ids=("address", "thread"))
def test_under_sanitizers(flags: tuple[str, ...], tmp_path: Path, texts) -> None:
    toolchain = get_toolchain(gcc())
    stages = programs.staged(encoder("prime", layers=1, max_length=MOST), HOST, True)
    single = programs.build(stages, HOST, tmp_path, toolchain, flags)
    command = programs.build(stages, HOST, tmp_path, toolchain, flags, "batch_harness.c")
    for lengths in MIXES[1:-1]:
        batch = texts(lengths)
        want = programs.run([*single, "1"], batch)
        for threads in ("1", "2", "3"):
            for g, w in zip(programs.run([*command, threads], batch), want, strict=True):
                np.testing.assert_array_equal(g, w)


def test_no_memory(tmp_path: Path, texts) -> None:
    """Allocations of a batch that fail: CANAO_MEMORY, nothing written, and the model goes on."""
    stages = programs.staged(classifier("small", layers=1, max_length=MOST), HOST, True)
    flags = ("-DNO_MEMORY", "-Wl,--wrap=posix_memalign", "-Wl,--wrap=malloc")
    toolchain = get_toolchain(gcc())
    command = programs.build(stages, HOST, tmp_path, toolchain, flags, "batch_harness.c")
    assert len(programs.run([*command, "3"], texts(LENGTHS))) == len(LENGTHS)

"""The Python interface: shapes in, shapes out, and what is refused."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

import canao
from canao.inference.compiled_model import CompiledModel
from tests.compiler.models import classifier, encoder, reference
from tests.oracle import assert_close


@pytest.fixture(scope="module")
def compiled() -> CompiledModel:
    return canao.compile(classifier("small", max_length=40))


def test_exports_are_sorted_and_exist() -> None:
    assert canao.__all__ == sorted(canao.__all__)
    assert all(getattr(canao, name) is not None for name in canao.__all__)


def test_a_room_does_not_hide_a_function() -> None:
    """Importing canao/search/, as every other function does, leaves `canao.search` callable."""
    from canao.search import options

    assert canao.search.options is options  # type: ignore[attr-defined]
    with pytest.raises(canao.InputError, match="budget"):
        canao.search(teacher=Path(__file__).parent, data="data.tsv", budget_ms=-1)


def test_one_text_and_a_batch(compiled: CompiledModel, sentences) -> None:
    ids, types = sentences(9, 99, 2)
    one = compiled(ids, types)
    assert one.shape == (3,) and one.dtype == np.float32
    batch = compiled(np.stack([ids, ids[::-1]]), np.stack([types, types]))
    assert batch.shape == (2, 3)
    np.testing.assert_array_equal(batch[0], one)
    np.testing.assert_array_equal(compiled(input_ids=ids, token_type_ids=types), one)
    np.testing.assert_array_equal(compiled(list(map(int, ids)), types.astype(np.int64)), one)


def test_type_ids_may_be_left_out(compiled: CompiledModel, sentences) -> None:
    ids, _ = sentences(12, 99, 2)
    np.testing.assert_array_equal(compiled(ids), compiled(ids, np.zeros(12, np.int32)))


def test_hidden_states_keep_their_length(sentences) -> None:
    model = encoder("small", max_length=40)
    ids, types = sentences(11, 99, 2)
    with canao.compile(model) as compiled:
        got = compiled.run(ids, types)
    want = reference(model, ids, types)
    assert list(got) == ["last_hidden_state", "pooler_output"]
    assert got["last_hidden_state"].shape == (11, 64) and got["pooler_output"].shape == (64,)
    assert_close(got["last_hidden_state"], want[0][0])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([99],), ("input_ids", "99", "98")),
        (([-1],), ("input_ids", "-1")),
        (([1, 2], [0, 2]), ("token_type_ids", "2")),
        (([1, 2], [0]), ("token_type_ids", "shape")),
        (([],), ("input_ids",)),
        (([1.5],), ("float64", "whole")),
        (([[[1]]],), ("shape",)),
        (([1] * 41,), ("41", "40")),
        (([1], [0], [1], [1]), ("4 inputs",)),
        ((), ("input_ids", "missing")),
        (([2**40],), ("input_ids",)),
    ],
)
def test_refused(compiled: CompiledModel, arguments, words) -> None:
    with pytest.raises(canao.InputError, match=words[0]) as error:
        compiled(*arguments)
    assert all(word in str(error.value) for word in words), error.value


def test_calls_from_several_threads(compiled: CompiledModel, sentences) -> None:
    ids, _ = sentences(33, 99, 2)
    want = compiled(ids)
    wrong: list[int] = []

    def call() -> None:
        for _ in range(50):
            if not (compiled(ids) == want).all():
                wrong.append(1)

    threads = [threading.Thread(target=call) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_closed(sentences) -> None:
    model = canao.compile(classifier("small", max_length=16))
    model.close()
    model.close()
    with pytest.raises(canao.InputError, match="closed"):
        model([1])


def test_recompiled_into_the_same_place(tmp_path: Path) -> None:
    """A process that has the old library loaded gets the new one."""
    first = canao.compile(classifier("small", max_length=16), tmp_path / "out")
    second = canao.compile(classifier("odd", max_length=16, labels=5), tmp_path / "out")
    assert first([1, 2]).shape == (3,) and second([1, 2]).shape == (5,)


def test_load_checks_every_file(tmp_path: Path) -> None:
    canao.compile(classifier("small", max_length=16), tmp_path / "out").close()
    weights = tmp_path / "out" / "weights.bin"
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(raw)
    with pytest.raises(canao.InputError, match=r"weights\.bin"):
        canao.load(tmp_path / "out")


def test_load_samples_the_weights(tmp_path: Path) -> None:
    """Other weights of the same layout are found at once; one bit only when all are read."""
    first, second = tmp_path / "first", tmp_path / "second"
    for path, seed in ((first, 1), (second, 2)):
        canao.compile(classifier("deep_product", layers=8, seed=seed), path).close()
    weights = (first / "weights.bin").read_bytes()
    assert len(weights) > 64 * 4096  # a fingerprint is not all of it
    (second / "weights.bin").write_bytes(weights)
    with pytest.raises(canao.InputError, match=r"weights\.bin"):
        canao.load(second)
    (first / "weights.bin").write_bytes(weights[:-1])
    with pytest.raises(canao.InputError, match=r"weights\.bin"):
        canao.load(first)
    flipped = bytearray(weights)
    flipped[4096 + 1] ^= 1
    (first / "weights.bin").write_bytes(flipped)
    canao.load(first).close()
    with pytest.raises(canao.InputError, match=r"weights\.bin"):
        canao.load(first, verify=True)

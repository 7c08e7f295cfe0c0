"""Errors of fewer heads and units, against least squares over all subsets, and by hand."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

from canao.model import hf
from canao.train.data import load_data
from canao.train.engine.batches import collate, encode
from canao.train.inheritance.pruning import PruningErrors, errors, measure_errors
from tests.train.tiny_bert import save_tiny, write_task


def least(x: np.ndarray, w: np.ndarray, columns: list[int]) -> float:
    """The relative squared error of x w^T from some of its columns alone, with the best weights.

    Changes of weights cost a hundredth of the mean square of x, as the damping has it: they are
    further rows of the least squares.
    """
    damping = np.sqrt(0.01 * (x**2).sum(0).mean()) * np.eye(x.shape[1])
    damped = np.concatenate([x, damping])
    want = damped @ w.T
    found, *_ = np.linalg.lstsq(damped[:, columns], want, rcond=None)
    return float(((damped[:, columns] @ found - want) ** 2).sum() / ((x @ w.T) ** 2).sum())


@pytest.mark.parametrize(("size", "together"), [(1, 1), (3, 1), (1, 2)])
def test_errors_are_those_of_the_best_weights(size: int, together: int) -> None:
    """Taken away one after another, they lose at least what the best subset loses, and less than
    most; the first to go is the best."""
    rng = np.random.default_rng(0)
    count = 6 if together == 1 else 8
    x = rng.standard_normal((400, count * size)) @ rng.standard_normal((count * size, count * size))
    w = rng.standard_normal((5, count * size))
    found = errors(torch.from_numpy(w), torch.from_numpy(x.T @ x), size, together).numpy()
    assert found.shape == (count + 1,) and found[0] == 1 and found[count] == 0
    assert (np.diff(found) <= 1e-9).all()
    for left in range(1, count):
        if together > 1 and (count - left) % together:
            continue
        of_all = [
            least(x, w, [s * size + j for s in subset for j in range(size)])
            for subset in combinations(range(count), left)
        ]
        best = min(of_all)
        assert best * (1 - 1e-5) <= found[left] <= np.quantile(of_all, 0.9) + 1e-9
        if left == count - 1:
            assert found[left] == pytest.approx(best, rel=1e-5)


def test_what_nobody_reads_costs_nothing() -> None:
    x = np.random.default_rng(1).standard_normal((100, 8))
    w = np.ones((3, 8))
    w[:, 5:] = 0
    found = errors(torch.from_numpy(w), torch.from_numpy(x.T @ x), 1, 1)
    assert found[5] < 1e-9 and found[4] > 0.05


def test_a_models_errors(tmp_path: Path) -> None:
    """With all but two units of a layer, against a model without them, whose weights are fitted."""
    data = load_data(write_task(tmp_path / "task"), None, 0)
    folder = save_tiny(tmp_path / "teacher")
    model = hf.load_classifier(folder, data.labels)
    held = encode(hf.load_tokenizer(folder), data.train, 16, 2)
    found = measure_errors(model, held)
    assert found.heads.shape == (3, 5) and found.ffn.shape == (3, 65)
    for shares in (found.heads, found.ffn):
        assert (shares[:, 0] == 1).all() and (shares[:, -1] == 0).all()
        assert (shares.diff(dim=1) <= 1e-6).all()
    # Of attention, independently: the inputs of a projection, and least squares.
    seen = []
    hook = model.bert.encoder.layer[1].attention.output.dense.register_forward_pre_hook(
        lambda module, given: seen.append(given[0])
    )
    batch = collate(held, range(len(held)))
    with torch.no_grad():
        model(**batch.inputs)
    hook.remove()
    x = seen[0][batch.padding_mask.bool()].double().numpy()
    w = model.bert.encoder.layer[1].attention.output.dense.weight.detach().double().numpy()
    want = min(
        least(x, w, [h * 8 + j for h in heads for j in range(8)])
        for heads in combinations(range(4), 3)
    )
    assert float(found.heads[1, 3]) == pytest.approx(want, rel=1e-3)
    path = tmp_path / "errors.safetensors"
    found.save(path, "key")
    arch = hf.arch_of(model.config)
    again = PruningErrors.load(path, "key", arch)
    assert again is not None and torch.equal(again.ffn, found.ffn)
    assert PruningErrors.load(path, "other", arch) is None
    path.write_bytes(b"junk")
    assert PruningErrors.load(path, "key", arch) is None

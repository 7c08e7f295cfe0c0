"""attention_mask as Transformers defines it: padding is cut off, holes are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import RobertaConfig, RobertaForTokenClassification

import canao
from canao.inference.compiled_model import CompiledModel
from canao.model.directory.loaded_model import LoadedModel
from canao.model.directory.padding import ignores_left_padding
from tests.compiler.models import SPREAD, classifier, encoder, spans
from tests.oracle import assert_close

LENGTHS = (9, 1, 4)


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return encoder("small", layers=1, max_length=40)


@pytest.fixture(scope="module")
def compiled(model) -> CompiledModel:
    return canao.compile(model)


def batch(left: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ids, types and mask of texts of LENGTHS, padded to 9."""
    rng = np.random.default_rng(0)
    ids, types = rng.integers(5, 99, (3, 9)), rng.integers(0, 2, (3, 9))
    mask = np.zeros((3, 9), int)
    for row, length in enumerate(LENGTHS):
        mask[row, 9 - length if left else 0 : 9 if left else length] = 1
    return ids * mask, types * mask, mask


def test_padding_at_the_end(model, compiled: CompiledModel) -> None:
    ids, types, mask = batch()
    with torch.no_grad():
        want = model(*(torch.tensor(a) for a in (ids, mask, types)))
    got = compiled.run(ids, types, mask)
    assert got["last_hidden_state"].shape == want.last_hidden_state.shape
    here = mask.astype(bool)
    hidden = got["last_hidden_state"]
    assert_close(hidden[here], want.last_hidden_state.numpy()[here])
    assert not hidden[~here].any()
    assert_close(got["pooler_output"], want.pooler_output.numpy())
    for row, length in enumerate(LENGTHS):
        np.testing.assert_array_equal(hidden[row, :length],
                                      compiled(ids[row, :length], types[row, :length]))  # fmt: skip


def test_forms_of_a_mask(compiled: CompiledModel) -> None:
    ids, types, mask = batch()
    want = compiled(ids, types, mask)
    for form in (mask.astype(bool), mask.astype(np.int32), mask.tolist(), torch.tensor(mask)):
        np.testing.assert_array_equal(compiled(ids, types, attention_mask=form), want)
    np.testing.assert_array_equal(
        compiled(input_ids=ids[1], token_type_ids=types[1], attention_mask=mask[1]), want[1]
    )
    np.testing.assert_array_equal(compiled(ids[0], types[0], mask[0]), compiled(ids[0], types[0]))
    np.testing.assert_array_equal(compiled(ids, None, mask), compiled(ids, 0 * ids, mask))
    # What stands at the padding is never read.
    np.testing.assert_array_equal(compiled(ids - 100 * (1 - mask), types, mask), want)
    # A batch wider than the model holds texts that are not.
    wide = [np.pad(a, ((0, 0), (0, 60))) for a in (ids, types, mask)]
    np.testing.assert_array_equal(compiled(*wide)[:, :9], want)


def test_heads_with_padding() -> None:
    ids, types, mask = batch()
    model = spans()
    with torch.no_grad():
        want = model(*(torch.tensor(a) for a in (ids, mask, types)))
    got = canao.compile(model).run(ids, types, mask)
    for name in ("start_logits", "end_logits"):
        assert got[name].shape == (3, 9) and not got[name][mask == 0].any()
        assert_close(got[name][mask == 1], want[name].numpy()[mask == 1], name)
    model = classifier("small", layers=1, max_length=40)
    with torch.no_grad():
        want = model(*(torch.tensor(a) for a in (ids, mask, types))).logits.numpy()
    assert_close(canao.compile(model)(ids, types, mask), want)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m[:, :8], r"\[3, 8\].*\[3, 9\]"),
        (lambda m: m.astype(float), "float64"),
        (lambda m: m * 2, "holds 2"),
        (lambda m: -m, "holds -1"),
        (lambda m: m * 0, "sequence 0: .*0 everywhere"),
        (lambda m: m[:, :, None], r"\[3, 9, 1\]"),
        (lambda m: np.where(np.arange(9) == 2, 0, m), "sequence 0: .*0 at 2.*take those tokens"),
        (lambda m: m[:, ::-1], "sequence 1: .*pad at the end"),
    ],
)
def test_refused(compiled: CompiledModel, change, words: str) -> None:
    ids, types, mask = batch()
    with pytest.raises(canao.InputError, match=words):
        compiled(ids, types, attention_mask=change(mask))
    with pytest.raises(canao.InputError, match="given twice"):
        compiled(ids, types, mask, attention_mask=mask)


def test_which_models_ignore_padding_at_the_start() -> None:
    """RoBERTa counts positions from the first token; BERT from the first column."""
    torch.manual_seed(1)
    config = RobertaConfig(
        vocab_size=99, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=42, initializer_range=SPREAD,
    )  # fmt: skip
    roberta = RobertaForTokenClassification(config).eval()
    assert ignores_left_padding(LoadedModel(roberta, roberta.config, None))
    for other in (encoder("small", layers=1), classifier("small", layers=1)):
        assert not ignores_left_padding(LoadedModel(other, other.config, None))
    assert not ignores_left_padding(LoadedModel(torch.nn.Linear(2, 2), None, None))


def test_padding_at_the_start(model, tmp_path) -> None:
    """Cut off too, and put back, where the manifest says that positions allow it."""
    compiled = canao.compile(model, tmp_path / "out")
    assert compiled.artifact.manifest["left_padding"] is False
    compiled.artifact.manifest["left_padding"] = True
    compiled = CompiledModel(compiled.artifact)
    ids, types, mask = batch(left=True)
    got = compiled(ids, types, mask)
    for row, length in enumerate(LENGTHS):
        alone = compiled(ids[row, 9 - length :], types[row, 9 - length :])
        np.testing.assert_array_equal(got[row, 9 - length :], alone)
        assert not got[row, : 9 - length].any()

"""Training with the rows of a table of words that it sees alone: the same weights come of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_bert import save_tiny, write_task
from transformers import PreTrainedModel

from canao.defaults import silent
from canao.model import hf
from canao.train.data import load_data
from canao.train.engine.batches import Encoded, collate, encode
from canao.train.engine.compact import as_compact, compact_words
from canao.train.engine.fake_quantization import FakeQuantization
from canao.train.engine.loop import TrainingSchedule
from canao.train.teacher.finetune import finetune
from tests.oracle import OF_STATES, SHALLOW, assert_close

SCHEDULE = TrainingSchedule(epochs=1, batch=16, lr=2e-3, weight_decay=0.0)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher whose vocabulary has many more rows than the texts use."""
    return save_tiny(tmp_path_factory.mktemp("wide"), vocab_size=300)


@pytest.fixture(scope="module")
def data(wide: Path, tmp_path_factory: pytest.TempPathFactory) -> Encoded:
    task = load_data(write_task(tmp_path_factory.mktemp("task"), train=96))
    return encode(hf.load_tokenizer(wide), task.train, 32)


def model_of(wide: Path) -> PreTrainedModel:
    torch.manual_seed(0)
    return hf.load_classifier(wide, ("neg", "pos"))


def test_the_same_weights_come_of_it(wide: Path, data: Encoded) -> None:
    whole, cut = model_of(wide), model_of(wide)
    finetune(whole, data, SCHEDULE, silent)
    with compact_words(cut, [data]):
        rows = len(hf.parts_of(cut).words.weight)
        assert rows == len(np.unique(np.concatenate([*data.ids, [data.pad]])))
        finetune(cut, data, SCHEDULE, silent)
    for (name, a), b in zip(whole.state_dict().items(), cut.state_dict().values(), strict=True):
        assert_close(a, b, name, tolerance=SHALLOW, relative=OF_STATES)
    assert hf.parts_of(cut).words.num_embeddings == 300


def test_a_model_is_whole_again_after_an_interrupt(wide: Path, data: Encoded) -> None:
    model = model_of(wide)
    words = hf.parts_of(model).words
    before, padding = words.weight.detach().clone(), words.padding_idx

    def interrupted() -> None:
        with compact_words(model, [data]):
            assert len(words.weight) < 300
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert torch.equal(words.weight, before) and words.padding_idx == padding
    assert not words._forward_pre_hooks
    assert words.weight.requires_grad


def test_nothing_is_cut_where_most_rows_are_needed(wide: Path, data: Encoded) -> None:
    model = model_of(wide)
    every = replace(data, ids=(np.arange(290, dtype=np.int32),))
    with compact_words(model, [data, every]):
        assert len(hf.parts_of(model).words.weight) == 300


def test_rounded_models_see_the_same_rows(wide: Path, data: Encoded) -> None:
    model = model_of(wide)
    rounding = FakeQuantization.of(model, 32)
    batch = collate(data, range(8))
    with torch.no_grad():
        with rounding.active(model):
            want = model(**batch.inputs).logits
        with compact_words(model, [data]), rounding.active(model):
            assert torch.equal(model(**batch.inputs).logits, want)


def test_a_table_like_another_finds_its_rows_alike(wide: Path, data: Encoded) -> None:
    model, other = model_of(wide), model_of(wide)
    words, own = hf.parts_of(model).words, hf.parts_of(other).words
    as_compact(own, words)
    assert len(own.weight) == 300
    with compact_words(model, [data]):
        as_compact(own, words)
        with torch.no_grad():
            own.weight.copy_(words.weight)
        ids = torch.from_numpy(data.ids[0]).long()
        assert torch.equal(own(ids), words(ids)) and not own.weight.requires_grad

"""Every entry of every settings file of a small model is changed in turn: another value, another
type, removed, an unknown one added. The compiled model then computes what Transformers or
Sentence-Transformers compute, or is refused by the name of the entry or its file.

`benchmarks/settings.py` runs all changes; here a fixed sample of them is tried.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.settings import KINDS, Change, changes_of, sampled, tried

SAMPLE = 14  # changes of each kind of model


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_entry_counts_as_it_does_for_the_oracle_or_is_refused(
    kind: str, tmp_path: Path
) -> None:
    model = KINDS[kind](tmp_path / "model")
    changes = sampled(changes_of(model), SAMPLE, seed=11)
    outcomes = [tried(model, change, tmp_path / "changed") for change in changes]
    wrong = [f"{o.change}: {o.said}" for o in outcomes if not o.right]
    assert not wrong, "\n".join(wrong)
    # A test in which everything is refused, or nothing, would show little.
    assert {o.refused for o in outcomes} == {True, False}


# What the study of all changes has found to be wrong before.
FOUND = (
    ("sentence", Change("sentence_bert_config.json", "module_output_name", "removed")),
    ("sentence", Change("sentence_bert_config.json", "module_output_name", "another value", "")),
    ("sentence", Change("1_Pooling/config.json", "embedding_dimension", "removed")),
    ("decoder", Change("generation_config.json", "eos_token_id", "another value", -1)),
    ("decoder", Change("generation_config.json", "repetition_penalty", "another type", 7)),
)


@pytest.mark.parametrize(("kind", "change"), FOUND, ids=lambda x: getattr(x, "entry", x))
def test_what_was_wrong_before(kind: str, change: Change, tmp_path: Path) -> None:
    outcome = tried(KINDS[kind](tmp_path / "model"), change, tmp_path / "changed")
    assert outcome.right, outcome.said


def test_changes_cover_every_entry_and_an_unknown_one(tmp_path: Path) -> None:
    model = KINDS["classifier"](tmp_path / "model")
    found = {(c.file, c.entry, c.how) for c in changes_of(model)}
    for entry in ("model_type", "hidden_act", "id2label", "pad_token_id"):
        assert ("config.json", entry, "removed") in found
        assert ("config.json", entry, "another type") in found
    assert any(how == "added" for _, _, how in found)
    assert Change("config.json", "x", "added", 1) != Change("config.json", "x", "added", 2)

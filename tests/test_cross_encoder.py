"""Scores of classifiers: as CrossEncoder gives them where the model is one, else as Transformers'
pipeline of text classification does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from sentence_transformers import CrossEncoder
from torch import nn

import canao
from canao.inference.compiled_model import CompiledModel
from canao.inference.tasks.activations import ACTIVATIONS, activated
from canao.inference.tasks.classify import classify
from canao.model.directory.loaded_model import load_directory
from canao.model.directory.task import describe_head
from canao.model.sentence import cross_encoder
from canao.model.sentence.cross_encoder import read_cross_encoder
from tests import tokens
from tests.heads import save_model
from tests.oracle import SHALLOW, assert_close

PAIR = ("Where was Ada born?", tokens.SENTENCES[0])
HEAD = "ForSequenceClassification"
Made = tuple[CompiledModel, Path]


def patch(path: Path, **entries: Any) -> None:
    held = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**held, **entries}))


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A head of one label, without any settings besides."""
    folder = tmp_path_factory.mktemp("one")
    save_model(HEAD, folder, num_labels=1)
    return canao.compile(folder), folder


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("three")
    save_model(HEAD, folder, num_labels=3)
    return canao.compile(folder), folder


def manifest_of(folder: Path) -> dict[str, Any]:
    return describe_head(load_directory(folder))


def scores(compiled: CompiledModel, manifest: dict[str, Any]) -> dict[str, float]:
    """As `predict` makes them with another manifest: the library is the same."""
    ids, types = compiled.encode(*PAIR)
    logits = compiled.run(ids, types)["logits"]
    if manifest["task"] == "text-regression":
        return {"score": float(logits[0])}
    return dict(classify(logits, manifest, None).scores)


def copied(folder: Path, to: Path, **entries: Any) -> Path:
    import shutil

    shutil.copytree(folder, to)
    patch(to / "config.json", **entries)
    return to


# What a plain config.json may say, and of how many labels.
PLAIN = (
    (1, {}), (1, {"problem_type": "regression"}),
    (1, {"problem_type": "multi_label_classification"}), (3, {}),
    (3, {"problem_type": "single_label_classification"}),
    (3, {"problem_type": "multi_label_classification"}), (3, {"problem_type": "regression"}),
    (3, {"function_to_apply": "sigmoid"}),
)  # fmt: skip


@pytest.mark.parametrize(("count", "entries"), PLAIN)
def test_a_plain_classifier_is_scored_as_in_transformers(
    one: Made, three: Made, tmp_path: Path, count: int, entries: dict[str, Any]
) -> None:
    compiled, folder = one if count == 1 else three
    folder = copied(folder, tmp_path / "model", **entries)
    pipeline = transformers.pipeline("text-classification", str(folder), device="cpu")
    want = {w["label"]: w["score"] for w in pipeline(dict(text=PAIR[0], text_pair=PAIR[1]),
                                                     top_k=None)}  # fmt: skip
    manifest = manifest_of(folder)
    regression = entries.get("problem_type") == "regression"
    assert manifest["task"] == ("text-regression" if regression else "text-classification")
    assert manifest["cross_encoder"] is None
    got = scores(compiled, manifest)
    if regression:
        assert manifest["activation"] == "identity"
        want = {"score": want["LABEL_0"]}
    assert {k: got[k] for k in want} == pytest.approx(want, abs=SHALLOW)
    if count == 1 and not entries:
        assert dict(compiled.predict(*PAIR).scores) == pytest.approx(want, abs=SHALLOW)


@pytest.mark.parametrize(("version", "name"), [
    *((3, name) for name in sorted(cross_encoder.ACTIVATIONS)), (5, "Identity"), (5, "Sigmoid"),
    (5, "Tanh"), (6, "Identity"), (6, "Softmax"),
])  # fmt: skip
def test_activations_that_are_named(
    one: Made, three: Made, tmp_path: Path, name: str, version: int
) -> None:
    """By each version's own entry, of one label or of three."""
    for compiled, folder in (one, three) if version == 5 else (three,):
        folder = copied(folder, tmp_path / folder.name)
        path = getattr(nn, name).__module__ + "." + name
        if version == 6:
            CrossEncoder(str(folder), device="cpu", activation_fn=getattr(nn, name)()).save(
                str(folder)
            )
        elif version == 5:
            patch(folder / "config.json",
                  sentence_transformers={"activation_fn": path, "version": "5.1.0"})  # fmt: skip
        else:
            patch(folder / "config.json", sbert_ce_default_activation_function=path)
        want = CrossEncoder(str(folder), device="cpu").predict([PAIR])[0]
        got = scores(compiled, manifest_of(folder))
        assert_close(np.array([got[k] for k in sorted(got)]), np.atleast_1d(want),
                     tolerance=SHALLOW)  # fmt: skip


@pytest.fixture(scope="module")
def saved(one: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    CrossEncoder(str(one[1]), device="cpu").save_pretrained(str(folder))
    return folder


def test_a_cross_encoder_of_version_6(saved: Path) -> None:
    """With its prompts, and pairs that are too long: cut from the longer text without asking."""
    root = saved / "config_sentence_transformers.json"
    patch(root, prompts={"query": "Ada "}, default_prompt_name="query")
    model, compiled = CrossEncoder(str(saved), device="cpu"), canao.compile(saved)
    assert compiled.artifact.manifest["activation"] == "sigmoid"
    long = ("born " * 50, "London " * 90)
    for pair in (PAIR, long, long[::-1], (PAIR[0], long[1])):
        want = model.predict([pair])
        got = compiled.predict(*pair)
        assert got.label == "LABEL_0"
        assert_close([got.score], want, tolerance=SHALLOW)
        plain = compiled.predict(*pair, prompt_name="")
        assert_close([plain.score], model.predict([pair], prompt=""), tolerance=SHALLOW)
    with pytest.raises(canao.InputError, match="no prompt 'q'"):
        compiled.predict(*PAIR, prompt_name="q")


def test_what_a_cross_encoder_may_not_say(saved: Path, three: Made, tmp_path: Path) -> None:
    root, config = "config_sentence_transformers.json", "config.json"
    cases: tuple[tuple[str, dict[str, Any], str], ...] = (
        (root, {"activation_fn": "os.system"}, r"'os\.system'.*Sigmoid"),
        (root, {"activation_fn": "torch.nn.modules.activation.GLU"}, "GLU"),
        (root, {"model_type": "SentenceTransformer"}, "transformer_task"),
        ("sentence_bert_config.json", {"module_output_name": "logit"}, "'logit'"),
        (config, {"architectures": ["BertForMaskedLM"]}, "no head for labels"),
    )
    for i, (file, entries, words) in enumerate(cases):
        folder = copied(saved, tmp_path / str(i))
        patch(folder / file, **entries)
        with pytest.raises(canao.CanaoError, match=words) as raised:
            load_directory(folder)
        assert "\n" not in str(raised.value) and raised.value.exit_code != 1
    folder = copied(three[1], tmp_path / "own", sentence_transformers={"activation": "x"})
    with pytest.raises(canao.UnsupportedError, match=r"sentence_transformers\.activation"):
        load_directory(folder)
    assert read_cross_encoder(three[1]) is None


def test_activations_are_those_of_torch() -> None:
    x = np.array([-700.0, -3.0, -0.5, 0.0, 0.25, 4.0, 700.0])
    for name, called in cross_encoder.ACTIVATIONS.items():
        module = nn.Softmax(-1) if name == "Softmax" else getattr(nn, name)()
        assert_close(activated(x, called), module(torch.from_numpy(x)), tolerance=1e-12)
    assert set(cross_encoder.ACTIVATIONS.values()) <= set(ACTIVATIONS)
    with pytest.raises(canao.InputError, match="'swish'"):
        activated(x, "swish")

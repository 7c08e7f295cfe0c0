"""SetFit models: the head as docs/setfit.md writes it, beside scikit-learn's own probabilities."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier

import canao
from canao.compiler.loading import load_model
from canao.inference.tasks.classify import classify
from canao.model.directory.task import describe_head
from canao.model.sentence.embedding import with_embedding
from tests import tokens
from tests.oracle import SHALLOW, assert_close
from tests.sentence_models import WIDTH, encoded, saved, transformer

DOCUMENT = Path(__file__).parent.parent / "docs" / "setfit.md"
TEXTS = (*tokens.SENTENCES, "Ada Lovelace worked in London.", "wake me", "seven", "café owners")
NAMES = ["alarm", "person", "place"]


@pytest.fixture(scope="module")
def body(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SentenceTransformer]:
    folder = tmp_path_factory.mktemp("body")
    return folder / "model", saved([transformer(folder), modules.Pooling(WIDTH)], folder / "model")


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program that the document shows."""
    text = DOCUMENT.read_text(encoding="utf-8")
    shown = re.search(r"<!-- converter: begin -->\n```python\n(.*?)```", text, re.DOTALL)
    assert shown is not None
    path = tmp_path_factory.mktemp("script") / "head_to_safetensors.py"
    path.write_text(shown[1], encoding="utf-8")
    return path


def heads() -> dict[str, tuple[Any, Any]]:
    """Classifiers, not yet trained, and what they are trained to say of eight texts."""
    rng = np.random.default_rng(1)
    several = (rng.random((8, 3)) > 0.5).astype(int)
    several[:2] = [[0, 1, 0], [1, 0, 1]]
    regression = LogisticRegression(C=30)
    return {
        "two": (regression, np.array([0, 1] * 4)),
        "three": (regression, np.array([0, 1, 2, 0, 1, 2, 0, 1])),
        "names": (regression, np.array(["b", "c", "a", "b", "c", "a", "b", "a"])),
        "one against rest": (OneVsRestClassifier(regression), np.array([2, 1, 0, 2, 1, 0, 2, 0])),
        "several": (OneVsRestClassifier(regression), several),
        "outputs": (MultiOutputClassifier(regression), several),
    }


@pytest.mark.parametrize("name", sorted(heads()))
def test_a_head_is_compiled_with_the_model(
    body: tuple[Path, SentenceTransformer], script: Path, tmp_path: Path, name: str
) -> None:
    source, model = body
    folder = tmp_path / "model"
    shutil.copytree(source, folder)
    vectors = np.stack([encoded(model, text) for text in TEXTS])
    scaled = name in ("two", "several")
    if scaled:
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    head, wanted = heads()[name]
    head.fit(vectors, wanted)
    joblib.dump(head, folder / "model_head.pkl")
    labels = None if name == "names" else NAMES[: 2 if name == "two" else 3]
    settings = {"labels": labels, "normalize_embeddings": scaled}
    (folder / "config_setfit.json").write_text(json.dumps(settings))
    with pytest.raises(canao.UnsupportedError, match=r"pickle.*docs/setfit\.md") as raised:
        canao.compile(folder, out=tmp_path / "out")
    assert "\n" not in str(raised.value) and not (tmp_path / "out").exists()
    subprocess.run([sys.executable, script, folder], check=True)
    want = head.predict_proba(vectors)
    if isinstance(want, list):
        want = np.stack([both[:, 1] for both in want], 1)
    names = labels or ["a", "b", "c"]
    source_model, _ = load_model(folder)
    manifest = describe_head(source_model)
    assert manifest["task"] == "text-classification" and manifest["labels"] == names
    several = name in ("several", "outputs")
    assert manifest["activation"] == ("sigmoid" if several else "softmax")
    module = with_embedding(source_model.module, source_model.sentence, WIDTH)
    tokenizer = model.tokenizer
    compiled = canao.compile(folder) if name in ("three", "several") else None
    for text, row in zip(TEXTS, want, strict=True):
        with torch.no_grad():
            ids = tokenizer(text, truncation=True, return_tensors="pt")
            logits = module(ids["input_ids"])["logits"][0].numpy()
        got = dict(classify(logits, manifest, None).scores)
        assert_close([got[label] for label in names], row, text, tolerance=SHALLOW)
        if compiled is not None:
            got = dict(compiled.predict(text).scores)
            assert_close([got[label] for label in names], row, text, tolerance=SHALLOW)


def test_heads_that_cannot_be_written(script: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    chain = ClassifierChain(LogisticRegression(), order=[0, 1])
    chain.fit(rng.normal(size=(9, 4)), np.array([[0, 1], [1, 0], [1, 1]] * 3))
    joblib.dump(chain, tmp_path / "model_head.pkl")
    done = subprocess.run([sys.executable, script, tmp_path], capture_output=True, check=False)
    assert done.returncode != 0 and not (tmp_path / "model_head.safetensors").exists()


def test_files_of_heads_that_are_damaged(
    body: tuple[Path, SentenceTransformer], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(body[0], folder)
    file = folder / "model_head.safetensors"
    (folder / "config_setfit.json").write_text('{"labels": ["x", "y", "z"]}')

    def refused(words: str, told: dict[str, str], **tensors: np.ndarray) -> None:
        save_file(tensors, file, metadata=told)
        with pytest.raises(canao.CanaoError, match=words) as raised:
            load_model(folder)
        assert "\n" not in str(raised.value) and raised.value.exit_code != 1

    weight, bias = np.ones((3, WIDTH), np.float32), np.zeros(3, np.float32)
    good = {"scores": "softmax", "classes": "[0, 1, 2]"}
    refused("coef and intercept", good, coef=weight)
    refused("coef and intercept", good, coef=weight, intercept=bias[:2])
    refused("coef and intercept", good, coef=weight, intercept=bias, more=bias)
    refused("'scores'", {**good, "scores": "rank"}, coef=weight, intercept=bias)
    refused("'classes'", {"scores": "softmax"}, coef=weight, intercept=bias)
    refused("2 classes", {**good, "classes": "[0, 1]"}, coef=weight, intercept=bias)
    refused("class 3 is none", {**good, "classes": "[0, 1, 3]"}, coef=weight, intercept=bias)
    refused("same label", {**good, "classes": '[0, 1, "x"]'}, coef=weight, intercept=bias)
    refused("is given 48", good, coef=weight[:, :9].copy(), intercept=bias)
    refused("NaN", good, coef=weight * np.nan, intercept=bias)
    (folder / "config_setfit.json").write_text('{"span_context": 3}')
    refused("AbsaModel", good, coef=weight, intercept=bias)
    (folder / "config_setfit.json").write_text('{"threshold": 3}')
    refused("'threshold'", good, coef=weight, intercept=bias)
    file.unlink()
    (folder / "config_setfit.json").write_text("{}")
    with pytest.raises(canao.UnsupportedError, match="pickle"):
        load_model(folder)

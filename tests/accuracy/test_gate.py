"""Libraries in int8 against float32 on labelled text."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from canao.accuracy import gate
from canao.accuracy.gate import compile_checked
from canao.accuracy.measure import labelled_text, predictions
from canao.artifact.directory import Artifact
from canao.artifact.manifest import otherwise
from canao.compiler.pipeline import compile_model
from canao.errors import AccuracyError, InputError
from canao.model import hf
from canao.target import get_target
from canao.train.data import TextData, load_data
from tests.accuracy.test_fastest import VNNI
from tests.train.tiny_bert import (
    BAD,
    GOOD,
    PLAIN,
    save_sentence_model,
    save_tiny,
    write_several,
    write_task,
    write_words,
)


def save_model(folder: Path, labels: tuple[str, ...], outlier: float = 1.0) -> Path:
    """A small classifier of random weights. With an outlier, one unit of each feed-forward part is
    that many times larger than the others, and the weights that read it that much smaller: in
    float32 nothing changes but roundings, as ReLU scales with its input."""
    save_tiny(folder, hidden_act="relu")
    names = dict(enumerate(labels))
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, id2label=names, label2id={v: k for k, v in names.items()}
    )
    with torch.no_grad():
        model.classifier.weight.normal_()
        for layer in model.bert.encoder.layer:
            layer.intermediate.dense.weight[3] *= outlier
            layer.intermediate.dense.bias[3] = outlier
            layer.output.dense.weight[:, 3] /= outlier
        # Half of some texts are of each class, so that small changes are seen.
        tokenizer = AutoTokenizer.from_pretrained(folder)
        words = [*GOOD, *BAD, *PLAIN]
        texts = [" ".join(words[i % 20 :: 3]) for i in range(40)]
        logits = model.eval()(**tokenizer(texts, padding=True, return_tensors="pt")).logits
        model.classifier.bias -= logits.median(0).values
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TextData:
    return labelled_text(write_task(tmp_path_factory.mktemp("task")))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("plain"), ("neg", "pos"))


def test_a_library_that_loses_nothing(plain: Path, data: TextData, tmp_path: Path) -> None:
    told: list[str] = []
    found = compile_checked(
        plain, tmp_path / "out", data, precision="int8", max_loss=5, progress=told.append
    )
    assert found.loss <= 5 and found.kept == ()
    manifest = Artifact.load(tmp_path / "out").manifest
    check = manifest["check"]
    assert (check["examples"], check["metric"]) == (60, "accuracy")
    assert check["agreement"] >= 0.9 and manifest["agreement"]["cosine"] > 0.99
    again = predictions(found.artifact, data)
    assert again.score.value == check["compiled"] and len(again.values) == 60
    moved = [s.moved for s in found.hurting]
    assert moved == sorted(moved, reverse=True)
    assert len(found.hurting) == 12 and found.back == "" and list(otherwise(manifest)) == []
    assert any(line.startswith("int8, all 12 products and tables: accuracy") for line in told)


def agreeing(model: Path, data: TextData, folder: Path) -> TextData:
    """The same texts, whose labels are what the model says of them in float32."""
    said = predictions(compile_model(model, folder / "reference"), data).values
    return replace(data, dev=tuple(
        replace(e, label=int(v)) for e, v in zip(data.dev, said, strict=True)
    ))  # fmt: skip


@pytest.mark.parametrize("back", ["float32", "bf16"])
def test_what_hurts_goes_back_to_more_bits(
    back: str, data: TextData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The product that reads the outlier is found, and kept; what is lost is then allowed. It goes
    back to bf16 where that is faster than float32, or may be emulated."""
    model = save_model(tmp_path / "model", ("neg", "pos"), outlier=3000.0)
    bare = compile_model(model, tmp_path / "bare", precision="int8")
    truth = agreeing(model, data, tmp_path)
    assert predictions(bare, truth).score.value < 0.98, "int8 does not hurt this model"
    monkeypatch.setattr(gate, "factors", lambda *_: {})  # smoothing would be enough
    told: list[str] = []
    found = compile_checked(
        model, tmp_path / "out", truth, precision="int8", max_loss=0, progress=told.append,
        target=replace(get_target(), extensions=()), allow_emulation=back == "bf16",
    )  # fmt: skip
    assert found.loss <= 0 and 0 < len(found.kept) < 12 and found.back == back
    assert all(where.endswith("output.dense") for where in found.kept[:3])
    told_of = " ".join(otherwise(found.artifact.manifest))
    assert told_of == f"in {back} stay {', '.join(found.artifact.manifest['kept'][back])}"
    kept = found.artifact.manifest["kept"]
    assert sorted(kept.pop(back)) == sorted(found.kept) and not any(kept.values())
    assert any(f"{len(found.kept)} of 12 products and tables in {back}" in line for line in told)


def test_products_go_back_to_bf16_before_float32() -> None:
    """On targets that have instructions for it; what is no whole numbers only to float32."""
    assert gate._backs(VNNI, "int8", False) == ("bf16", "float32")
    assert gate._backs(VNNI, "int8-weights", False) == ("float32",)
    assert gate._backs(VNNI, "bf16", False) == ("float32",)
    assert gate._backs(get_target("x86_64-linux"), "int8", False) == ("float32",)
    assert gate._backs(get_target("x86_64-linux"), "int8", True) == ("bf16", "float32")
    assert [list(gate._counts(most)) for most in (0, 1, 2, 5)] == [[], [1], [1, 2], [1, 2, 4, 5]]


def test_an_uneven_channel_is_smoothed(data: TextData, tmp_path: Path) -> None:
    """Which is enough where that is what hurts: no product goes back."""
    model = save_model(tmp_path / "model", ("neg", "pos"), outlier=3000.0)
    told: list[str] = []
    found = compile_checked(
        model, tmp_path / "out", agreeing(model, data, tmp_path), precision="int8", max_loss=0,
        progress=told.append,
    )  # fmt: skip
    assert found.loss <= 0 and found.kept == ()
    manifest = found.artifact.manifest
    outliers = {f"bert.encoder.layer.{layer}.output.dense" for layer in range(3)}
    assert outliers <= set(manifest["smoothed"]) and not any(manifest["kept"].values())
    assert any("values smoothed" in line for line in told)
    (line,) = otherwise(manifest)
    assert line == f"smoothed is what is read at {', '.join(manifest['smoothed'])}"

def test_nothing_is_written_where_too_much_is_lost(
    plain: Path, data: TextData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = iter(range(100))

    def falling(artifact: Artifact, of: TextData, opened: Any) -> object:
        found = predictions(artifact, of, opened)
        worse = {"accuracy": 0.9 if next(measured) == 0 else 0.5}
        return replace(found, score=replace(found.score, metrics=worse))

    monkeypatch.setattr(gate, "predictions", falling)
    words = (r"40\.00 with 11 of 12 .*; it moves outputs most at bert\.\S+ \(\S+e-\d+\), .*; "
             r"--max-loss is 1 points: give 40\.00 or more, which holds with all 12 products")
    with pytest.raises(InputError, match=words) as refused:
        compile_checked(plain, tmp_path / "out", data, precision="int8", max_loss=1)
    assert not (tmp_path / "out").exists()
    assert "\n" not in str(refused.value) and str(refused.value).count("bert.") == 5


@pytest.mark.parametrize("lost", [0.4902, 1 / 3, 0.5, 100 * (0.785 - 0.7825), 99.99999])
def test_the_loss_that_is_named_is_enough(lost: float) -> None:
    """It is rounded up: the same command with it succeeds."""
    attempt = gate._Attempt((), "", {}, (gate.Sensitivity("a", "layer.a", 0.25),))
    said = gate._too_much("int8", [gate._Tried(lost, attempt)], 0.1)
    named = float(said.partition(": give ")[2].partition(" ")[0])
    assert lost <= named + gate._NOISE and named - lost < 0.01 + gate._NOISE
    assert "it moves outputs most at layer.a (2.5e-01)" in said
    endless = gate._too_much("int8", [gate._Tried(np.inf, attempt)], 0.1)
    assert "loses all with all 1 products" in endless and "give" not in endless


def test_what_no_library_holds_is_a_loss_of_it(
    plain: Path, data: TextData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A precision whose sums overflow is not given up before products go back."""
    real = gate.compile_model

    def narrow(model: Path, out: Path, **options: object) -> Artifact:
        if options.get("precision") == "int8" and len(options["kept"]) < 2:
            raise AccuracyError("layer.0: the results are not finite in int8")
        return real(model, out, **options)

    monkeypatch.setattr(gate, "compile_model", narrow)
    found = compile_checked(plain, tmp_path / "out", data, precision="int8", max_loss=100)
    assert len(found.kept) == 2


def test_all_of_a_single_file_is_checked_with(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "task", train=100)
    assert len(labelled_text(folder / "train.tsv").dev) == 100
    assert len(labelled_text(folder).dev) == 60


@pytest.mark.parametrize(
    ("labels", "kind", "words"),
    [
        (("a", "b"), "classes", "labels neg, pos, and the model a, b; .* id2label"),
        (("neg", "pos"), "values", "is data for text-regression, and the model is for text-class"),
    ],
)
def test_data_of_another_task(
    labels: tuple[str, ...], kind: str, words: str, tmp_path: Path
) -> None:
    model = save_model(tmp_path / "model", labels)
    task = "text-regression" if kind == "values" else None
    data = labelled_text(write_task(tmp_path / "task", kind), task=task)
    with pytest.raises(InputError, match=words):
        compile_checked(model, tmp_path / "out", data, precision="int8")
    assert not (tmp_path / "out").exists()


def test_labels_that_nobody_named_go_by_their_numbers(tmp_path: Path) -> None:
    model = save_model(tmp_path / "model", ("LABEL_0", "LABEL_1"))
    named = save_model(tmp_path / "named", ("1", "0"))
    file = tmp_path / "t.tsv"
    file.write_text("sentence\tlabel\n" + "good film\t1\nbad film\t0\n" * 3)
    data = labelled_text(file)
    first, second = (
        predictions(compile_model(m, tmp_path / f"out{i}"), data)
        for i, m in enumerate((model, named))
    )
    assert np.array_equal(first.values, 1 - second.values)


def test_data_with_some_of_the_models_labels(tmp_path: Path) -> None:
    """What the data have no text of may still be predicted, and is then wrong."""
    model = save_model(tmp_path / "model", ("other", "pos", "neg"))
    data = labelled_text(write_task(tmp_path / "task"))
    found = predictions(compile_model(model, tmp_path / "out"), data)
    truth = [("other", "pos", "neg").index(data.labels[e.label]) for e in data.dev]
    assert found.score.metrics["accuracy"] == np.mean(found.values == truth)


def test_models_that_say_yes_or_no_to_each_label_are_refused(tmp_path: Path) -> None:
    model = save_model(tmp_path / "model", ("neg", "pos"))
    settings = json.loads((model / "config.json").read_text())
    settings["problem_type"] = "multi_label_classification"
    (model / "config.json").write_text(json.dumps(settings))
    data = labelled_text(write_task(tmp_path / "task"))
    with pytest.raises(InputError, match="yes or no to each of its 2 labels"):
        predictions(compile_model(model, tmp_path / "out"), data)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"precision": "float32"}, "compares another precision with float32"),
        ({"target": get_target("aarch64-linux")}, "runs none for aarch64-linux"),
        ({"max_loss": -1}, "points of the metric, from 0 to 100"),
    ],
)
def test_checks_that_cannot_be(
    plain: Path, data: TextData, options: dict[str, object], words: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=words):
        compile_checked(plain, tmp_path / "out", data, **({"precision": "int8"} | options))


def test_texts_that_are_cut_are_counted(plain: Path, tmp_path: Path) -> None:
    file = tmp_path / "t.tsv"
    file.write_text("sentence\tlabel\n" + f"{'good ' * 90}\tpos\nbad\tneg\n" * 2)
    told: list[str] = []
    compile_checked(
        plain, tmp_path / "out", file, precision="int8", max_loss=100, progress=told.append
    )
    assert "2 texts are truncated to the 64 tokens of the model" in told
    assert any("4 examples" in line or "4 to compare with" in line for line in told)


def test_a_model_of_several_precisions_is_checked_as_it_is(data: TextData, tmp_path: Path) -> None:
    """Its library is not in float32, though none was asked for: it is compared with one that is.
    What loses too much goes back, also of what the model itself wanted narrow."""
    whole = save_model(tmp_path / "whole", ("neg", "pos"), outlier=3000.0)
    model = AutoModelForSequenceClassification.from_pretrained(whole)
    arch = hf.arch_of(model.config)
    narrow = replace(arch, blocks=tuple(replace(b, precision="int8") for b in arch.blocks))
    mixed = hf.build_classifier(hf.student_config(model.config, narrow))
    mixed.load_state_dict(model.state_dict())
    mixed.save_pretrained(tmp_path / "mixed")
    for file in whole.glob("token*"):
        shutil.copy(file, tmp_path / "mixed")
    truth = agreeing(whole, data, tmp_path)
    with pytest.raises(InputError, match="another precision with float32"):
        compile_checked(whole, tmp_path / "out", truth, precision="float32")
    loose = compile_checked(
        tmp_path / "mixed", tmp_path / "out", truth, precision="float32", max_loss=100
    )
    assert loose.loss > 0 and loose.artifact.manifest["kept"]["int8"] and not loose.kept
    strict = compile_checked(
        tmp_path / "mixed", tmp_path / "out2", truth, precision="float32", max_loss=0
    )
    assert strict.loss <= 0 and strict.kept and strict.back == "float32"


def save_value_model(folder: Path) -> Path:
    """A small model that predicts a value."""
    model = save_model(folder, ("value",))
    settings = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(settings | {"problem_type": "regression"}))
    return model


def write_ratings(path: Path, labels: tuple[str, ...], columns: str = "sentence") -> Path:
    words = [*GOOD, *BAD, *PLAIN]
    texts = [" ".join(words[i % 20 :: 3]) for i in range(40)]
    rows = [f"{text}\t{text if '2' in columns else labels[i % len(labels)]}"
            f"{chr(9) + labels[i % len(labels)] if '2' in columns else ''}"
            for i, text in enumerate(texts)]  # fmt: skip
    path.write_text(f"{columns}\tlabel\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return path


def test_whole_numbers_are_what_the_model_says_they_are(plain: Path, tmp_path: Path) -> None:
    """Ratings from 0 to 5 are values to a model that predicts one, and classes to one that chooses
    among them."""
    ratings = write_ratings(tmp_path / "ratings.tsv", ("0", "1", "2", "3", "4", "5"))
    found = compile_checked(save_value_model(tmp_path / "value"), tmp_path / "out", ratings,
                            precision="int8", max_loss=100)  # fmt: skip
    check = found.artifact.manifest["check"]
    assert (check["metric"], check["examples"]) == ("pearson_spearman", 40)
    assert check["float32"] != 0 and found.compiled.values.dtype.kind == "f"
    stars = save_model(tmp_path / "stars", ("0", "1", "2", "3", "4", "5"))
    found = compile_checked(stars, tmp_path / "out2", ratings, precision="int8", max_loss=100)
    assert found.artifact.manifest["check"]["metric"] == "accuracy"
    with pytest.raises(InputError, match=r"labels 0, 1, .*, and the model neg, pos"):
        compile_checked(plain, tmp_path / "out3", ratings, precision="int8")


def test_numbers_that_are_names(tmp_path: Path) -> None:
    """Half stars are real numbers, of which a model has classes; however they are written."""
    stars = save_model(tmp_path / "stars", ("0.5", "1.0", "1.5"))
    data = write_ratings(tmp_path / "stars.tsv", ("0.5", "1", "1.50"))
    found = compile_checked(stars, tmp_path / "out", data, precision="int8", max_loss=100)
    assert found.artifact.manifest["check"]["metric"] == "accuracy"
    assert set(found.float32.values) <= {0, 1, 2} and found.float32.score.value > 0


def test_pairs_with_whole_scores_judge_vectors(tmp_path: Path) -> None:
    model = save_sentence_model(tmp_path / "sentence")
    pairs = tmp_path / "pairs.tsv"
    rows = [f"{a} film\t{b} film\t{int((a in GOOD) == (b in GOOD))}"
            for a in (*GOOD, *BAD) for b in (*GOOD, *BAD)]  # fmt: skip
    pairs.write_text("sentence1\tsentence2\tlabel\n" + "\n".join(rows) + "\n", encoding="utf-8")
    found = compile_checked(model, tmp_path / "out", pairs, precision="int8", max_loss=100)
    assert found.artifact.manifest["check"]["metric"] == "spearmanr"


def test_data_of_another_kind_are_still_refused(tmp_path: Path) -> None:
    """Lists, and names, are not made values of."""
    value = save_value_model(tmp_path / "value")
    several = write_several(tmp_path / "several", 10, 4)
    with pytest.raises(InputError, match=r"is data for .*, and the model is for text-regression"):
        compile_checked(value, tmp_path / "out", several, precision="int8")
    with pytest.raises(InputError, match=r"label '(pos|neg)' is not a finite number, as text-regr"):
        compile_checked(value, tmp_path / "out", write_task(tmp_path / "task"), precision="int8")
    with pytest.raises(InputError, match=r"nowhere\.tsv: no such file or directory"):
        compile_checked(tmp_path / "no model", tmp_path / "out", "nowhere.tsv", precision="int8")


@pytest.mark.parametrize("kind", ["classes", "several", "words"])
def test_development_examples_are_enough(kind: str, tmp_path: Path) -> None:
    """Nothing is trained, so nobody has to have a training file."""
    write = {"classes": write_task, "several": write_several,
             "words": lambda *a: write_words(*a, table=True)}[kind]  # fmt: skip
    folder = write(tmp_path / "task")
    both = labelled_text(folder)
    for file in folder.glob("train.*"):
        file.unlink()
    alone = labelled_text(folder)
    assert [e.text for e in alone.dev] == [e.text for e in both.dev]
    assert alone.train == () and alone.kind == both.kind and set(alone.labels) <= set(both.labels)
    with pytest.raises(InputError, match=r"no train\.tsv, train\.csv"):
        load_data(folder)
    for file in folder.glob("dev.*"):
        file.unlink()
    with pytest.raises(InputError, match=r"no dev\.tsv, validation\.tsv, test\.tsv, train\.tsv"):
        labelled_text(folder)

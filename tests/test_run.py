"""`canao run` and `canao inspect` as a user meets them."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from canao.compiler.pipeline import compile_model
from tests.heads import LONGEST, TAGS, save_model
from tests.test_cli import canao, refused  # noqa: F401
from tests.test_sentence import write_modules
from tests.tokens import SENTENCES

HEADS = {
    "labels": ("ForSequenceClassification", {"num_labels": 4}),
    "entities": ("ForTokenClassification", {"id2label": dict(enumerate(TAGS)),
                                            "label2id": {t: i for i, t in enumerate(TAGS)}}),
    "answers": ("ForQuestionAnswering", {}),
    "masks": ("ForMaskedLM", {}),
    "vectors": ("Model", {}),
}  # fmt: skip
TEXT = SENTENCES[0]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The artifact of each head, by name."""
    folder, out = tmp_path_factory.mktemp("models"), {}
    for name, (head, settings) in HEADS.items():
        save_model(head, folder / name, **settings)
        if name == "vectors":
            write_modules(folder / name, {"pooling_mode": "mean"}, "Normalize")
        out[name] = str(compile_model(folder / name, folder / f"{name}-out").path)
    return out


@pytest.fixture
def as_json(canao):  # noqa: F811
    def run(*arguments: str) -> list:
        done = canao("run", *arguments, "--json")
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


def test_labels(canao, made, as_json) -> None:  # noqa: F811
    lines = canao("run", made["labels"], TEXT).stdout.splitlines()
    assert len(lines) == 3 and all("LABEL_" in line for line in lines)
    assert len(canao("run", made["labels"], TEXT, "--top", "1").stdout.splitlines()) == 1
    (form,) = as_json(made["labels"], TEXT)
    assert form["text"] == TEXT and len(form["labels"]) == 4
    assert sum(row["score"] for row in form["labels"]) == pytest.approx(1)
    (second,), (named,) = (as_json(made["labels"], TEXT, *p) for p in (["Ada"], ["--pair", "Ada"]))
    assert second == named and second["pair"] == "Ada" and second["labels"] != form["labels"]


def test_entities(canao, made, as_json) -> None:  # noqa: F811
    one, two = as_json(made["entities"], *SENTENCES[:2])
    assert one["text"] == SENTENCES[0] and two["text"] == SENTENCES[1]
    for form in (one, two):
        assert form["entities"]
        for e in form["entities"]:
            assert form["text"][e["start"] : e["end"]] == e["text"] and e["label"] in ("PER", "LOC")
    said = canao("run", made["entities"], *SENTENCES[:2]).stdout
    assert SENTENCES[1] in said and f"{one['entities'][0]['start']}-" in said
    tags = as_json(made["entities"], TEXT, "--aggregate", "none")[0]["entities"]
    assert tags and {t["label"] for t in tags} <= set(TAGS) - {"O"}


def test_answers(canao, made, as_json) -> None:  # noqa: F811
    (form,) = as_json(made["answers"], "Where?", "--context", TEXT, "--top", "2")
    assert len(form["answers"]) == 2
    assert all(TEXT[a["start"] : a["end"]] == a["text"] for a in form["answers"])
    assert as_json(made["answers"], "Where?", TEXT, "--top", "2") == [form]
    said = canao("run", made["answers"], "Where?", TEXT).stdout
    assert form["answers"][0]["text"] in said
    two = as_json(made["answers"], "Where?", "Who?", "--context", TEXT)
    assert [f["text"] for f in two] == ["Where?", "Who?"]


def test_masks_and_vectors(canao, made, as_json) -> None:  # noqa: F811
    (form,) = as_json(made["masks"], "Ada [MASK] in [MASK].", "--top", "2")
    assert [len(mask) for mask in form["masks"]] == [2, 2]
    assert "mask 2" in canao("run", made["masks"], "Ada [MASK] in [MASK].").stdout
    said = canao("run", made["vectors"], *SENTENCES[:2])
    rows = [np.array(json.loads(line)) for line in said.stdout.splitlines()]
    assert [r.shape for r in rows] == [(48,), (48,)]
    np.testing.assert_array_equal(as_json(made["vectors"], TEXT)[0]["vector"], rows[0])


def test_files_and_standard_input(canao, made, as_json, monkeypatch, tmp_path: Path) -> None:  # noqa: F811
    texts = [f"{s} {i}" for i, s in enumerate(SENTENCES * 10)]
    (tmp_path / "texts.txt").write_text("\r\n".join(texts), encoding="utf-8")
    forms = as_json(made["entities"], "--file", str(tmp_path / "texts.txt"), "--threads", "2")
    assert [f["text"] for f in forms] == texts
    (tmp_path / "pairs.txt").write_text(f"Where?\t{TEXT}\n", encoding="utf-8")
    assert as_json(made["answers"], "--file", str(tmp_path / "pairs.txt"))[0]["pair"] == TEXT
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("Zürich\n".encode())))
    assert as_json(made["vectors"], "-")[0]["text"] == "Zürich"


@pytest.mark.parametrize("name", ("file", "standard input"))
@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbfwake me\r\nat seven\r\n",
        b"wake me\nat seven",
        b"wake me\rat seven\r",
        b"\xef\xbb\xbfwake me\rat seven\n",
        "wake me\r\nat seven\r\n".encode("utf-16"),
        "\ufeffwake me\nat seven".encode("utf-16-be"),
        "\ufeffwake me\nat seven\n".encode("utf-32-le"),
    ],
    ids=["mark", "plain", "CR", "both", "UTF-16", "UTF-16 BE", "UTF-32"],
)
def test_texts_as_other_programs_write_them(
    data: bytes, name: str, made, as_json, monkeypatch, tmp_path: Path
) -> None:
    (tmp_path / "texts").write_bytes(data)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    source = ["--file", str(tmp_path / "texts")] if name == "file" else ["-"]
    forms = as_json(made["entities"], *source)
    assert [f["text"] for f in forms] == ["wake me", "at seven"]
    assert forms == as_json(made["entities"], "wake me", "at seven")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"a\nb\0c\n", ("line 2", "NUL")),
        ("wake me\n".encode("utf-16-le"), ("line 1", "NUL", "UTF-8")),
        (b"\xff\xfea", ("utf-16", "UTF-8")),
        (b"\xef\xbb\xbf", ("line 1", "empty")),
        (b"\xff\xfe", ("is empty",)),
        (b"a\r\rb", ("line 2", "empty")),
        (b"caf\xe9\n", ("line 1", "UTF-8")),
    ],
)
def test_what_is_no_text(data: bytes, words: tuple[str, ...], canao, made, tmp_path) -> None:  # noqa: F811
    (tmp_path / "texts").write_bytes(data)
    refused(canao("run", made["labels"], "--file", str(tmp_path / "texts")), "texts", *words)


def test_json_has_no_infinity(canao, tmp_path: Path) -> None:  # noqa: F811
    from transformers.utils import logging

    logging.disable_progress_bar()
    model, tokenizer = save_model("ForSequenceClassification", tmp_path / "model", num_labels=1,
                                  problem_type="regression")  # fmt: skip
    vector = model.bert(**tokenizer(TEXT, return_tensors="pt")).pooler_output
    model.classifier.weight.data = 3e38 * vector.detach().sign()
    model.save_pretrained(tmp_path / "model")
    compile_model(tmp_path / "model", tmp_path / "out")
    assert "inf" in canao("run", str(tmp_path / "out"), TEXT).stdout
    refused(canao("run", str(tmp_path / "out"), TEXT, "--json"), "NaN or infinity", "weights")


def test_what_counts(canao, made, as_json) -> None:  # noqa: F811
    """Labels above a threshold, and whether there is an answer."""
    (form,) = as_json(made["labels"], TEXT, "--threshold", "0.2")
    assert form["chosen"] == [row["label"] for row in form["labels"] if row["score"] >= 0.2]
    lines = canao("run", made["labels"], TEXT, "--threshold", "0.2").stdout.splitlines()
    assert [line.split()[1] for line in lines] == form["chosen"]
    none = canao("run", made["labels"], TEXT, "--threshold", "0.99").stdout
    assert none.strip() == "no label has 0.99"
    assert "chosen" not in as_json(made["labels"], TEXT)[0]
    asked = made["answers"], "Where?", TEXT
    (best,) = as_json(*asked)[0]["answers"]
    (none,) = as_json(*asked, "--null-threshold", "-1000")[0]["answers"]
    assert none == {"score": best["null_score"], "start": 0, "end": 0, "text": "",
                    "null_score": best["null_score"]}  # fmt: skip
    assert as_json(*asked, "--null-threshold", "1000")[0]["answers"] == [best]
    assert "no answer" in canao("run", *asked, "--null-threshold", "-1000").stdout
    some = as_json(made["entities"], TEXT, "--ignore-label", "O", "--ignore-label", "PER")
    assert {e["label"] for e in some[0]["entities"]} <= {"LOC"}


def test_what_is_refused(canao, made, tmp_path: Path) -> None:  # noqa: F811
    labels, lines = made["labels"], tmp_path / "lines.txt"
    lines.write_bytes(b"good\n\xff\xfe\n")
    refused(canao("run", labels, "--file", str(lines)), "line 2", "UTF-8")
    lines.write_bytes(b"good\n\n")
    refused(canao("run", labels, "--file", str(lines)), "line 2", "empty")
    lines.write_bytes(b"")
    refused(canao("run", labels, "--file", str(lines)), "is empty")
    refused(canao("run", labels, "--file", str(tmp_path / "none")), "none")
    refused(canao("run", labels, "a", "--file", str(lines)), "--file")
    refused(canao("run", labels), "no text")
    refused(canao("run", labels, "a", "b", "c"), "3 texts", "--file")
    refused(canao("run", labels, "\udcff"), "UTF-8")
    refused(canao("run", labels, "a", "--aggregate", "first"), "aggregate", "text-classification")
    refused(canao("run", labels, "a", "--top", "0"), "top")
    refused(canao("run", labels, "a", "--tpo", "2"), "--tpo")
    refused(canao("run", made["entities"], "a", "--context", "b"), "token-classification", "pair")
    refused(canao("run", made["entities"], "a", " "), "text 2", "empty")
    refused(canao("run", made["answers"], "Where?"), "--context")
    refused(canao("run", made["masks"], "Ada"), "[MASK]")
    refused(canao("run", made["vectors"], "Ada", "--pooling", "cls"), "sentence-embedding")


def test_long_texts(canao, made, as_json) -> None:  # noqa: F811
    long = "seven " * 99
    refused(canao("run", made["labels"], long), str(LONGEST), "--truncate")
    cut = canao("run", made["labels"], long, "--truncate")
    assert cut.returncode == 0 and f"to {LONGEST}" in cut.stderr
    assert as_json(made["labels"], long, "--truncate")[0]["cut_from"] > LONGEST


def test_a_reader_that_has_had_enough(made, tmp_path: Path) -> None:
    """No message, and not the exit code of a missed budget."""
    (tmp_path / "texts").write_text("Ada lives in London.\n" * 3000)
    command = [sys.executable, "-m", "canao.cli.app", "run", made["vectors"], "--json"]
    run = subprocess.Popen([*command, "--file", str(tmp_path / "texts")], text=True,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    assert json.loads(run.stdout.readline())["text"] == "Ada lives in London."
    run.stdout.close()
    assert run.stderr.read() == "" and run.wait() == 0


def test_inspect(canao, made, tmp_path: Path) -> None:  # noqa: F811
    folder = made["vectors"].removesuffix("-out")
    done = canao("inspect", folder, "--length", "32")
    assert done.returncode == 0 and "sentence-embedding, pooling mean, normalized" in done.stdout
    report = json.loads(canao("inspect", folder, "--json").stdout)
    assert report["supported"] and report["tokenizer"]["kind"] == "WordPiece"
    refused(canao("inspect", str(tmp_path / "none")), "none")
    refused(canao("inspect", folder, "--length", "0"), "length")
    refused(canao("inspect", made["vectors"]), "compiled already")
    modules = Path(folder) / "modules.json"
    kept = modules.read_text()
    modules.write_text(kept.replace("Normalize", "BoW"))
    try:
        wrong = canao("inspect", folder)
    finally:
        modules.write_text(kept)
    refused(wrong, "BoW")
    assert wrong.returncode == 3 and "not supported" in wrong.stdout

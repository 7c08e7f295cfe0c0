"""The study of what int8 costs on real tasks, on small models and made-up data."""

from __future__ import annotations

import gzip
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import AutoModelForTokenClassification, AutoTokenizer

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import embedding_precision  # noqa: E402
import precision_tasks  # noqa: E402
import precision_tasks_table  # noqa: E402
import tagging  # noqa: E402
from marks import BAD  # noqa: E402
from peers.records import Records  # noqa: E402
from peers.results import PUBLISHED, Results  # noqa: E402
from peers.source import Source  # noqa: E402
from precision_tasks_table import FLOAT32, INT8, TRAINED  # noqa: E402

from canao.accuracy.entities import entity_score  # noqa: E402
from canao.accuracy.tagged import Sentence  # noqa: E402
from canao.errors import InputError  # noqa: E402
from canao.train.data import Example, TextData  # noqa: E402
from canao.train.options import TrainOptions  # noqa: E402
from tests.accuracy.test_entities import LABELS, sentences, write_conll  # noqa: E402
from tests.train.tiny_bert import BAD as BAD_WORDS  # noqa: E402
from tests.train.tiny_bert import GOOD, save_tiny, write_task  # noqa: E402

SOURCE = {"commit": "c0ffee", "changed": []}
TRAINS = "precision" in {f.name for f in fields(TrainOptions)}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("teacher"))


def record(variant: str, value: float, seed: int = 0, **changes: Any) -> dict[str, Any]:
    return {"dataset": "MRPC", "seed": seed, "variant": variant, "most": 0, "kind": "accuracy",
            "metric": "accuracy", "metrics": {"accuracy": value}, "agreement": 0.99,
            "train_examples": 3000, "examples": 408, "source": SOURCE} | changes  # fmt: skip


@pytest.fixture
def study(teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arguments of a run on small data, as from a committed source."""
    monkeypatch.setattr(Source, "read", staticmethod(lambda: Source("c0ffee", ())))
    monkeypatch.setattr(precision_tasks, "LENGTH", 32)
    for name in ("RTE", "WNUT-17"):  # so small a model learns at a high rate
        task = replace(precision_tasks.TASKS[name], lr=3e-3, epochs=12)
        monkeypatch.setitem(precision_tasks.TASKS, name, task)
    write_task(tmp_path / "data" / "glue" / "RTE", train=480, dev=30)
    words = tmp_path / "data" / "wnut17"
    words.mkdir()
    for name, count in (("train", 80), ("dev", 20), ("test", 30)):
        write_conll(words / f"{name}.conll", learnable(count))
    return ["--teacher", str(teacher), "--data", str(tmp_path / "data"), "--work",
            str(tmp_path / "work"), "--out", str(tmp_path / "rows.jsonl"), "--seeds", "0",
            "--tasks", "RTE,WNUT-17"]  # fmt: skip


def learnable(count: int) -> tuple[Sentence, ...]:
    """Sentences in which good words are places, and bad ones people."""
    kinds = dict.fromkeys(GOOD, "B-loc") | dict.fromkeys(BAD_WORDS, "B-per")
    return tuple(
        Sentence(s.words, tuple(kinds.get(word, "O") for word in s.words)) for s in sentences(count)
    )


def rows_of(arguments: list[str]) -> dict[tuple[str, str], dict[str, Any]]:
    path = Path(arguments[arguments.index("--out") + 1])
    held = Records(path, precision_tasks.IDENTITY).read()
    return {(r["dataset"], r["variant"]): r for r in held}


def test_a_run_is_recorded_and_not_repeated(
    study: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert precision_tasks.main(study) == 0
    rows = rows_of(study)
    assert set(rows) == {(d, v) for d in ("RTE", "WNUT-17") for v in (FLOAT32, INT8)}
    for (_, variant), row in rows.items():
        assert row["examples"] == 30 and row["source"]["commit"] == "c0ffee"
        assert row["metrics"][row["metric"]] > 0.6, "nothing was learnt"
        assert row["agreement"] >= 0.9 and (variant != FLOAT32 or row["agreement"] == 1)
    # A tenth of the training file chooses the epoch; of words a file of its own does.
    assert rows["RTE", INT8]["train_examples"] == 432
    assert rows["WNUT-17", INT8]["train_examples"] == 80
    capsys.readouterr()
    assert precision_tasks.main(study) == 0
    assert capsys.readouterr().err.count("recorded already") == 2
    assert precision_tasks.main([*study, "--most", "40", "--tasks", "RTE"]) == 0
    held = Records(Path(study[7])).read()
    assert [r["train_examples"] for r in held] == [432, 432, 80, 80, 40, 40]


def test_quantisation_aware_training(study: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code = precision_tasks.main([*study, "--trained"])
    if not TRAINS:
        assert code != 0
        assert "error: the trainer has no quantisation-aware" in capsys.readouterr().err
        return
    assert code == 0
    rows = rows_of(study)
    for dataset in ("RTE", "WNUT-17"):
        row = rows[dataset, TRAINED]
        assert row["metrics"][row["metric"]] > 0.6


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["--tasks", "MNLI"], "task 'MNLI' is not one of MRPC, STS-B"),
        (["--tasks", "CoLA"], "--data has no CoLA, leave it out of --tasks"),
        (["--seeds", "a"], "--seeds a: give whole numbers"),
        (["--embeddings"], "--data has no text for embeddings"),
    ],
)
def test_what_is_missing_is_said(
    study: list[str], changes: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert precision_tasks.main([*study, *changes]) == InputError.exit_code
    told = capsys.readouterr().err
    assert words in told and told.count("\n") == 1


def test_labels_of_tokens_are_those_of_transformers(teacher: Path) -> None:
    """Each word's label is at its first token, and nowhere else."""
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    order = {label: i for i, label in enumerate(LABELS)}
    held = sentences(40)
    found = tagging.tokens(tokenizer, held, order, 16)
    for i, sentence in enumerate(held):
        given = tokenizer(
            list(sentence.words), is_split_into_words=True, truncation=True, max_length=16
        )
        assert found.encoded.ids[i].tolist() == given["input_ids"]
        places, seen = given.word_ids(), set[int]()
        want = []
        for place in places:
            first = place is not None and place not in seen
            want.append(order[sentence.tags[place]] if first else -100)
            seen.add(-1 if place is None else place)
        assert found.labels[i].tolist() == want


def test_loss_and_f1_of_tokens(teacher: Path) -> None:
    """Of a batch in any order: Transformers' own loss; F1 of what the model says."""
    tokenizer, names = AutoTokenizer.from_pretrained(teacher), dict(enumerate(LABELS))
    model = AutoModelForTokenClassification.from_pretrained(teacher, id2label=names).eval()
    held = sentences(9)
    data = tagging.tokens(tokenizer, held, {v: k for k, v in names.items()}, 8)
    (only,) = tagging.evaluation_batches(data.encoded, 9)
    wanted = torch.full(only.ids.shape, -100)
    for row, i in enumerate(only.index):
        wanted[row, : len(data.labels[i])] = torch.from_numpy(data.labels[i])
    with torch.no_grad():
        want = float(model(**only.inputs, labels=wanted).loss)
        assert float(tagging.loss_of(model, data)(only)) == pytest.approx(want, abs=1e-6)
    found = []
    for i, sentence in enumerate(held):
        with torch.no_grad():
            ids = torch.from_numpy(data.encoded.ids[i].astype(np.int64))[None]
            best = model(input_ids=ids).logits[0].argmax(-1).tolist()
        kept = [names[b] for b, want in zip(best, data.labels[i], strict=True)
                if want != -100]  # fmt: skip
        found.append([*kept, *["O"] * (len(sentence.words) - len(kept))])
    assert any(len(data.labels[i]) == 8 for i in range(9)), "no sentence is cut"
    expected = entity_score([s.tags for s in held], found, LABELS).value
    assert tagging.f1_of(model, data, names) == pytest.approx(expected)


def test_sentences_of_a_text(tmp_path: Path) -> None:
    path = tmp_path / "text.gz"
    lines = ["Ada (b. 1815) wrote it. More.", "", "Too few.", "What is it? No.",
             "One 1.5 two three", "It is here. And a full one."]  # fmt: skip
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write("\n".join(lines))
    want = ["Ada (b. 1815) wrote it.", "What is it? No.", "One 1.5 two three",
            "It is here. And a full one."]  # fmt: skip
    assert embedding_precision.sentences(path, 4) == want
    assert embedding_precision.sentences(path, 2) == [want[0], want[2]]
    with pytest.raises(InputError, match="4 sentences, 5 are wanted"):
        embedding_precision.sentences(path, 5)


def test_embeddings_are_compared_by_cosine() -> None:
    rng = np.random.default_rng(0)
    a, b, c = rng.standard_normal((3, 20, 8)).astype(np.float32)
    moved = a + np.float32(0.1) * b
    scores = tuple(Example("a", "b", float(x)) for x in rng.standard_normal(20))
    pairs = TextData("t", (), scores, (), ("text",))
    reference, other = (embedding_precision.Embedded(x, b, c) for x in (a, moved))
    found = other.compared(reference, pairs)
    each, near = (
        [np.dot(x, y) / np.sqrt(np.dot(x, x) * np.dot(y, y)) for x, y in zip(*two, strict=True)]
        for two in ((a, moved), (b, c))
    )
    want = stats.spearmanr(near, [e.label for e in scores])[0]
    assert found == pytest.approx(
        {"cosine_mean": np.mean(each), "cosine_least": min(each), "spearmanr": want}, abs=1e-6
    )
    assert reference.compared(reference, pairs)["cosine_least"] == pytest.approx(1.0)


def test_tables() -> None:
    order = tuple(precision_tasks.TASKS)
    rows = [record(FLOAT32, 0.80), record(INT8, 0.79), record(FLOAT32, 0.84, 1),
            record(INT8, 0.85, 1), record(TRAINED, 0.845, 1)]  # fmt: skip
    text = precision_tasks_table.tasks(order, rows)
    assert ("| MRPC | accuracy | 3,000 | 408 | 2 | 82.00 ± 2.83 | 82.00 ± 4.24 | +0.00 ± 1.41 | "
            "99.00 ± 0.00 | 84.50 | -0.50 |") in text  # fmt: skip
    bad = [*rows[:4], rows[4] | {"source": {"commit": None, "changed": []}}]
    marked = precision_tasks_table.tasks(order, bad)
    assert f"| MRPC {BAD} |" in marked and "not in a git checkout" in marked
    assert precision_tasks_table.tasks(order, [rows[1]]) == "No records yet.\n"
    metrics = {"cosine_mean": 0.9974, "cosine_least": 0.99, "spearmanr": 0.8664}
    vectors = record(INT8, 0.0, dataset="embeddings", metrics=metrics, pairs=1500)
    assert "| int8 | 0.99740 | 0.99000 | 86.64 |" in precision_tasks_table.embeddings([vectors])


def test_the_published_page_is_that_of_the_records() -> None:
    held = Records(PUBLISHED / "precision_tasks.jsonl").read()
    page = (ROOT / "benchmarks" / "precision_tasks.md").read_text(encoding="utf-8")
    made = precision_tasks_table.sections(tuple(precision_tasks.TASKS), held)
    assert all(f"begin -->\n{text}" in page for text in made.values())


def test_accuracy_needs_no_quiet_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Source, "read", staticmethod(lambda: Source("c0ffee", ())))
    path = tmp_path / "rows.jsonl"
    results = Results.start(Records(path, precision_tasks.IDENTITY))
    row = {k: v for k, v in record(INT8, 0.8).items() if k != "source"}
    assert results.put("m", row) and results.holds(row)

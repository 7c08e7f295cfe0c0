"""Training on texts without a label: what is read, what is learnt, and what stays as it was."""

from __future__ import annotations

import gzip
import hashlib
import json
from dataclasses import replace
from math import isnan
from pathlib import Path

import numpy as np
import pytest
import torch
from test_trainer import OPTIONS, SMALL, Watch
from tiny_bert import GOOD, PLAIN, save_masked

from canao import api
from canao.cli import entry as cli
from canao.errors import InputError
from canao.model import hf
from canao.train.data import NO_CLASS, Example, TextData
from canao.train.distillation.unlabelled import Unlabelled, read_unlabelled
from canao.train.engine import loop
from canao.train.trainer import Trainer

SINGLE = TextData("t", (), (), ("no", "yes"), ("sentence",), source="t.tsv")
PAIRS = replace(SINGLE, columns=("sentence1", "sentence2"))


def read(folder: Path, name: str, content: str, data: TextData = SINGLE) -> Unlabelled:
    path, raw = folder / name, content.encode("utf-8")
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return read_unlabelled(path, data)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", 'one "text"\r\n\n  \ntwo\ttexts\n'),
        ("a.TXT.gz", 'one "text"\ntwo\ttexts'),
        ("a.csv", 'sentence,label\n"one ""text""",1\n"two\ttexts",\n'),
        ("a.jsonl", '{"sentence": "one \\"text\\""}\n{"sentence": "two\\ttexts", "id": 4}\n'),
    ],
)
def test_texts_are_read_as_they_stand(name: str, content: str, tmp_path: Path) -> None:
    found = read(tmp_path, name, content)
    assert found.examples == tuple(
        Example(text, None, NO_CLASS) for text in ('one "text"', "two\ttexts")
    )
    assert found.told[0].endswith(f"{name}: 2 examples without a label, for the students' final "
                                  "training")  # fmt: skip


def test_all_columns_are_accounted_for(tmp_path: Path) -> None:
    lines = "id\tsentence1\tsentence2\tlabel\tmore\n1\ta b\tc\tx\tsome other text\n2\t \td\ty\tz\n"
    found = read(tmp_path, "p.tsv", lines, PAIRS)
    assert found.examples == (Example("a b", "c", NO_CLASS),)
    assert "1 example without a label" in found.told[0]
    assert "1 example with an empty text left out" in found.told[0]
    assert found.told[1].endswith(
        "not used: 'id' (it identifies the example), 'label' (no label of this file is used), "
        "'more' (it is no text of the labelled data)"
    )
    values = read(tmp_path, "v.txt", "a\n", replace(SINGLE, labels=()))
    assert isnan(values.examples[0].label)


@pytest.mark.parametrize(
    ("name", "content", "data", "message"),
    [
        ("a.txt", "a\n", PAIRS, r"one text a line, and .* pairs .* with sentence1 and sentence2"),
        ("a.txt", " \n\n", SINGLE, "has no text; give some"),
        ("a.tsv", "sentence\tx\n \t \n \ty\n", SINGLE, "has no text; give some"),
        ("a.tsv", "text\na b\n", SINGLE, r"no column 'sentence' among text; texts must be in the"),
        ("a.jsonl", '{"sentence": 3}', SINGLE, r"a.jsonl:1: 'sentence' is not a string"),
        ("a.pdf", "a\n", SINGLE, r"extension '.pdf' is not .txt, .tsv, .csv, .jsonl"),
        ("a.txt", "a\0b\n", SINGLE, "a.txt:1: has a null character"),
    ],
)
def test_odd_files(
    name: str, content: str, data: TextData, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path, name, content, data)
    with pytest.raises(InputError, match="cannot be read"):
        read_unlabelled(tmp_path / f"none-{name}".replace("pdf", "txt"), SINGLE)


TEXTS = tuple(Example(f"the {word} plot", None, NO_CLASS) for word in (*GOOD, *PLAIN))
ASKED = replace(OPTIONS, augment=2, teacher_epochs=1, final_epochs=2)


@pytest.fixture(scope="module")
def few(task: TextData) -> TextData:
    return replace(task, train=task.train[:48], dev=task.dev[:20])


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture
def trainer(tiny: Path, few: TextData, work: Path) -> Trainer:
    return Trainer(tiny, few, work, ASKED, Watch(), unlabelled=TEXTS)


def test_finalists_see_copies_and_texts_without_labels(trainer: Trainer, few: TextData) -> None:
    data = trainer._final_set()
    copies = len(data) - 48 - len(TEXTS)
    assert 75 < copies <= 96 and trainer.progress.steps["altered copies"]
    train_set = trainer.texts.train_set()
    assert [x.tolist() for x in data.ids[:48]] == [x.tolist() for x in train_set.ids]
    assert np.array_equal(data.labels[:48], train_set.labels)
    assert set(data.labels[48:]) == {NO_CLASS}
    tokens = trainer.texts.tokenizer
    texts = [tokens.decode(x, skip_special_tokens=True) for x in data.ids[48:]]
    assert texts[copies:] == [e.text for e in TEXTS]
    assert not set(texts[:copies]) & {e.text for e in few.train}
    # What was made is kept, and made anew if it is damaged.
    kept = trainer.work / "augmented.json"
    for content, steps in ((kept.read_text(), False), ('{"key": "', True)):
        kept.write_text(content)
        watch = Watch()
        again = Trainer(trainer.source, few, trainer.work, ASKED, watch, unlabelled=TEXTS)
        assert [x.tolist() for x in again._final_set().ids] == [x.tolist() for x in data.ids]
        assert bool(watch.steps["altered copies"]) == steps


def test_each_is_in_the_key_of_finalists_and_of_nothing_else(
    trainer: Trainer, few: TextData, tiny: Path, work: Path
) -> None:
    trainer.finish(SMALL)
    trainer.proxy_score(SMALL)
    stage = f"distil {SMALL}"
    assert trainer.progress.steps[stage] == 2 * -(-len(trainer._final_set()) // 16)
    for options, texts in (
        (replace(ASKED, augment=0), TEXTS), (ASKED, TEXTS[1:]),
        (replace(ASKED, losses="logits"), TEXTS),
    ):  # fmt: skip
        watch = Watch(stage, 1)
        other = Trainer(tiny, few, work, options, watch, unlabelled=texts)
        with pytest.raises(KeyboardInterrupt):
            other.finish(SMALL)
        other.proxy_score(SMALL)
        trained = watch.steps[f"proxy score {SMALL}"] > 0
        assert trained == (options.losses != ASKED.losses)
        assert not watch.steps["teacher"]


def test_copies_are_those_of_the_masked_model_that_is_given(
    few: TextData, tiny: Path, work: Path, tmp_path: Path
) -> None:
    found = []
    for seed, steps in ((5, True), (5, False), (6, True)):
        options = replace(ASKED, augment_model=str(save_masked(tmp_path / "masked", tiny, seed)))
        watch = Watch()
        made = Trainer(tiny, few, work, options, watch)
        found.append([x.tolist() for x in made._final_set().ids])
        assert bool(watch.steps["altered copies"]) == steps
    assert found[0] == found[1] != found[2]
    by_neighbours = Trainer(tiny, few, work, ASKED, Watch())._final_set().ids
    assert [x.tolist() for x in by_neighbours] not in found


def test_the_command_line_takes_them(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "d.tsv"
    data.write_text("sentence\tlabel\n" + "good film\t1\nbad film\t0\n" * 12, encoding="utf-8")

    def said(*options: str) -> str:
        command = ["canao", "search", "--teacher", str(tiny), "--data", str(data), "--length", "32",
                   "--budget-ms", "5", "--device", "null", "-o", str(tmp_path / "run")]  # fmt: skip
        monkeypatch.setattr("sys.argv", [*command, *options])
        with pytest.raises(SystemExit) as left:
            cli.main()
        assert left.value.code == 2 and not (tmp_path / "run").exists()
        return capsys.readouterr().err

    assert "loss 'x' is not one of logits, labels" in said("--losses", "logits,x")
    relations = ("--losses", "relations=0.5")
    assert "has 3 layers, relation_layer is 4" in said(*relations, "--relation-layer", "4")
    assert "relation_heads is 0" in said(*relations, "--relation-heads", "0")
    assert "augment is 101" in said("--augment", "101")
    assert "none: no such directory" in said("--augment", "1", "--augment-model", "none")
    assert "none.txt: cannot be read" in said("--unlabelled-text", "none.txt")


def test_results_of_earlier_versions_stay_valid(
    few: TextData, tiny: Path, tmp_path: Path
) -> None:
    """Without any of these options, keys are made of what they were made of before."""
    trainer = Trainer(tiny, few, tmp_path, replace(ASKED, augment=0, final_epochs=1), Watch())
    trainer.finish(SMALL)
    trainer.proxy_score(SMALL)
    for folder, parts in (("students", [1, 1e-3]), ("proxy", [5, 1e-3])):
        text = json.dumps([trainer._key, *parts], sort_keys=True)
        record = tmp_path / folder / f"{str(SMALL).replace(' ', '-')}.json"
        held = json.loads(record.read_text(encoding="utf-8"))
        assert held["key"] == hashlib.sha256(text.encode("utf-8")).hexdigest()


def test_a_killed_run_goes_on_to_the_same_weights(
    trainer: Trainer, few: TextData, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trainer.finish(SMALL)
    monkeypatch.setattr(loop, "_CHECKPOINT_SECONDS", 0.0)
    stage = f"distil {SMALL}"
    with pytest.raises(KeyboardInterrupt):
        Trainer(tiny, few, tmp_path, ASKED, Watch(stage, 13), unlabelled=TEXTS).finish(SMALL)
    watch = Watch()
    again = Trainer(tiny, few, tmp_path, ASKED, watch, unlabelled=TEXTS).finish(SMALL)
    assert watch.steps[stage] == 2 * -(-len(trainer._final_set()) // 16) - 12
    one, two = (hf.load_classifier(s.model_dir, few.labels) for s in (whole, again))
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, two.state_dict()[name]), name


def test_losses_must_learn_from_the_teacher(tiny: Path, few: TextData, tmp_path: Path) -> None:
    options = replace(OPTIONS, losses="labels")
    Trainer(tiny, few, tmp_path, options, Watch())
    for changed, texts in ((replace(options, augment=1), ()), (options, TEXTS)):
        with pytest.raises(InputError, match=r"losses are labels=0\.5, of which a text without"):
            Trainer(tiny, few, tmp_path, changed, Watch(), unlabelled=texts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"augment": -1}, "augment is -1; give 0 to 100 copies"),
        ({"augment": 101}, "augment is 101; give 0 to 100 copies"),
        ({"augment_model": "there"}, "augment_model is .*there, and augment is 0; say how many"),
        ({"losses": "none"}, "loss 'none' is not one of"),
        ({"augment": 1, "augment_model": "there"}, "there: no such directory"),
        ({"unlabelled_text": "there.txt"}, r"there.txt: cannot be read"),
        ({"losses": "relations", "relation_layer": 4}, "has 3 layers, relation_layer is 4"),
    ],
)
def test_odd_options_of_a_search(
    options: dict[str, object], message: str, tiny: Path, tmp_path: Path
) -> None:
    data = tmp_path / "d.tsv"
    data.write_text("sentence\tlabel\n" + "good film\t1\nbad film\t0\n" * 12, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        api.search(teacher=tiny, data=data, budget_ms=1.0, length=32, device="null",
                   run_dir=tmp_path / "run", **options)  # type: ignore[arg-type]  # fmt: skip

"""Words with labels: files, entities, and libraries on them, in float32 and in int8."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForTokenClassification, AutoTokenizer

from canao.accuracy.entities import entity_score
from canao.accuracy.gate import compile_checked
from canao.accuracy.measure import labelled_text, predictions
from canao.accuracy.tagged import Sentence, TaggedText, is_tagged, read_tagged
from canao.compiler.pipeline import compile_model
from canao.errors import InputError
from canao.inference.tasks.scheme import scheme_of
from canao.train.tasks.entities import spans
from tests.train.tiny_bert import BAD, GOOD, PLAIN, save_tiny, write_task

LABELS = ("O", "B-per", "I-per", "B-loc", "I-loc")


def save_tagger(folder: Path, labels: tuple[str, ...] = LABELS) -> Path:
    """A small model of random weights that labels tokens, each label about as often."""
    save_tiny(folder)
    names = dict(enumerate(labels))
    torch.manual_seed(2)
    model = AutoModelForTokenClassification.from_pretrained(
        folder, id2label=names, label2id={v: k for k, v in names.items()}
    )
    with torch.no_grad():
        model.classifier.weight.normal_()
        given = AutoTokenizer.from_pretrained(folder)(" ".join((*GOOD, *BAD, *PLAIN)))
        logits = model.eval()(torch.tensor([given["input_ids"]])).logits[0]
        model.classifier.bias -= logits.mean(0)
    model.save_pretrained(folder)
    return folder


def sentences(count: int, longest: int = 12) -> tuple[Sentence, ...]:
    """Words of the model's vocabulary and others, with labels at random."""
    pick = random.Random(4)
    known = [*GOOD, *BAD, *PLAIN, "good-film", "don't", "unseen", "a.b."]
    made = []
    for _ in range(count):
        words = tuple(pick.choices(known, k=pick.randint(1, longest)))
        made.append(Sentence(words, tuple(pick.choices(LABELS, k=len(words)))))
    return tuple(made)


def write_conll(path: Path, of: tuple[Sentence, ...]) -> Path:
    rows = ("\n".join(f"{w}\t{t}" for w, t in zip(s.words, s.tags, strict=True)) for s in of)
    path.write_text("\n\n".join(rows) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tagger(tmp_path_factory.mktemp("tagger"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TaggedText:
    path = write_conll(tmp_path_factory.mktemp("data") / "dev.conll", sentences(60))
    found = labelled_text(path)
    assert isinstance(found, TaggedText)
    return found


def conlleval(tags: list[str]) -> set[tuple[int, int, str]]:
    """Entities by the rules of conlleval.pl, endOfChunk and startOfChunk, for B, I, E and S."""
    found, begun = set(), None
    before, kind_before = "O", ""
    for at, tag in enumerate([*tags, "O"]):
        letter, _, kind = tag.partition("-")
        ends = (
            (before in ("B", "I") and letter in ("B", "S", "O")) or before in ("E", "S")
            or (before != "O" and kind_before != kind)
        )  # fmt: skip
        begins = (
            letter in ("B", "S") or (letter in ("E", "I") and before in ("E", "S", "O"))
            or (letter != "O" and kind_before != kind)
        )  # fmt: skip
        if begun is not None and ends:
            found.add((begun, at, kind_before))
            begun = None
        if begins:
            begun = at
        before, kind_before = letter, kind
    return found


@pytest.mark.parametrize("letters", ["BI", "I", "BIES"])
def test_entities_are_those_of_conlleval(letters: str) -> None:
    """Of labels in any order, most of which break the rules of their scheme."""
    labels = ["O", *(f"{letter}-{kind}" for letter in letters for kind in ("per", "a-b"))]
    pick, scheme = random.Random(0), scheme_of(labels)
    seen = 0
    for _ in range(400):
        tags = pick.choices(labels, k=pick.randint(1, 9))
        want = conlleval(tags)
        assert {(a, b, kind) for _, a, b, kind in spans([tags], scheme)} == want, tags
        seen += len(want)
    assert seen > 400


def test_scores() -> None:
    """The figures are those of seqeval 1.2.2 for the same lists."""
    truth = [["B-per", "I-per", "O", "B-loc"], ["O", "I-loc", "I-loc", "B-loc"]]
    found = [["B-per", "O", "O", "B-loc"], ["O", "I-loc", "I-loc", "I-loc"]]
    got = entity_score(truth, found, LABELS)
    assert got.primary == "entity_f1"
    assert got.metrics == {
        "word_accuracy": 0.75, "entity_precision": pytest.approx(1 / 3),
        "entity_recall": 0.25, "entity_f1": pytest.approx(2 / 7),
    }  # fmt: skip
    nothing = entity_score([["O"]], [["O"]], LABELS)
    assert nothing.value == 0.0
    speech = entity_score([["noun", "verb"]], [["noun", "noun"]], ("noun", "verb"))
    assert (speech.primary, speech.value) == ("word_accuracy", 0.5)


def test_words_have_the_labels_that_transformers_gives(
    tagger: Path, data: TaggedText, tmp_path: Path
) -> None:
    """The label of each word's first token, the words given one by one."""
    found = predictions(compile_model(tagger, tmp_path / "out"), data)
    tokenizer = AutoTokenizer.from_pretrained(tagger)
    model = AutoModelForTokenClassification.from_pretrained(tagger).eval()
    want: list[int] = []
    for sentence in data.dev:
        given = tokenizer(list(sentence.words), is_split_into_words=True, return_tensors="pt")
        with torch.no_grad():
            best = model(**given).logits[0].argmax(-1).tolist()
        places = given.word_ids()
        want += [best[places.index(i)] for i in range(len(sentence.words))]
    assert len(set(want)) == len(LABELS)
    assert np.array_equal(found.values, want)
    truth = [LABELS.index(tag) for s in data.dev for tag in s.tags]
    assert found.score.metrics["word_accuracy"] == np.mean(found.values == truth)


def test_long_sentences_and_words_without_tokens(tagger: Path, tmp_path: Path) -> None:
    """The model takes 64 tokens. A word that the tokenizer removes is in no entity."""
    hidden = "\u200b"  # a blank without width, to BERT's normaliser a control character
    words = ("good", hidden, "bad") * 40
    data = TaggedText("t", (Sentence(words, ("O",) * len(words)),), "t")
    found = predictions(compile_model(tagger, tmp_path / "out"), data)
    assert len(found.values) == 120 and set(found.values[1::3]) == {LABELS.index("O")}
    alone = TaggedText("t", (Sentence((hidden,), ("O",)),), "t")
    assert predictions(compile_model(tagger, tmp_path / "out2"), alone).values.tolist() == [0]


def test_a_check_of_entities(tagger: Path, data: TaggedText, tmp_path: Path) -> None:
    """Against what float32 says as the truth, int8 is measured by entities."""
    told: list[str] = []
    want = predictions(compile_model(tagger, tmp_path / "reference"), data)
    places, dev = iter(want.values), []
    for s in data.dev:
        dev.append(Sentence(s.words, tuple(LABELS[next(places)] for _ in s.words)))
    path = write_conll(tmp_path / "task.conll", tuple(dev))
    found = compile_checked(
        tagger, tmp_path / "out", path, precision="int8", max_loss=30, progress=told.append
    )
    check = found.artifact.manifest["check"]
    assert (check["metric"], check["float32"], check["examples"]) == ("entity_f1", 1.0, 60)
    assert 0.7 <= check["compiled"] <= 1 and check["agreement"] >= 0.9
    assert any("60 sentences of" in line for line in told)
    again = predictions(found.artifact, read_tagged(path))
    assert again.score.value == check["compiled"]


def test_files(tmp_path: Path) -> None:
    file = tmp_path / "validation.conll"
    file.write_text("-DOCSTART- -X- O\n\nAda NNP B-per\r\nsays VB O\n\n\n. . O", encoding="utf-8")
    found = read_tagged(tmp_path)
    assert [s.words for s in found.dev] == [("Ada", "says"), (".",)]
    assert found.dev[0].tags == ("B-per", "O") and found.dev[0].text == "Ada says"
    assert found.dev[0].starts() == [0, 4] and found.tags == ("B-per", "O")
    assert found.told[2:] == ("1 columns between word and label are not used",
                              "1 lines of -DOCSTART- are left out")  # fmt: skip
    assert is_tagged(tmp_path) and is_tagged(file)
    write_task(tmp_path)
    assert not is_tagged(tmp_path), "tables come first"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no words; give a word and its label on each line"),
        ("Ada\tB-per\nsays\n", ":2: 'says' has no label"),
        ("Ada\tB-per\nsays\tVB\tO\n", ":2: 3 columns, the lines before have 2"),
        ("Ada\tB-per\n\tO\n", ":2: an empty word or label"),
    ],
)
def test_files_that_cannot_be_read(text: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "a.conll"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=words):
        read_tagged(file)


def test_files_of_other_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_bytes(b"Ada\tO\n\xff\tO\n")
    with pytest.raises(InputError, match=":2: not UTF-8"):
        read_tagged(tmp_path / "a.conll")
    with pytest.raises(InputError, match=r"none of dev\.conll, validation\.conll, test\.conll"):
        read_tagged(tmp_path)
    with pytest.raises(InputError, match=r"missing\.conll"):
        read_tagged(tmp_path / "missing.conll")
    with pytest.raises(InputError, match="leave out --text-columns"):
        labelled_text(tmp_path / "a.conll", text_columns=("a",), label_column=None)


def test_data_of_another_task(tagger: Path, data: TaggedText, tmp_path: Path) -> None:
    artifact = compile_model(tagger, tmp_path / "out")
    with pytest.raises(InputError, match="data for text-classification, and the model is for tok"):
        predictions(artifact, labelled_text(write_task(tmp_path / "task")))
    fewer = save_tagger(tmp_path / "fewer", ("O", "B-per", "I-per"))
    other = compile_model(fewer, tmp_path / "out2")
    with pytest.raises(InputError, match=r"B-loc, .* and the model O, B-per, I-per; .* id2label"):
        predictions(other, data)
    with pytest.raises(InputError, match="for token-classification, and the model is for feature"):
        predictions(compile_model(save_tiny(tmp_path / "bare"), tmp_path / "o3"), data)

"""Words with labels and sets of labels: what is read of files, what is told, what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from tiny_bert import TAGS, write_several, write_words

from canao.errors import InputError
from canao.train.data import Example, TextData, load_data
from canao.train.distillation.unlabelled import read_unlabelled
from canao.train.task_names import SEVERAL, WORDS


def jsonl(path: Path, rows: Sequence[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


# Words.


def test_files_of_words(tmp_path: Path) -> None:
    (tmp_path / "train.conll").write_text(
        "-DOCSTART- -X- O\n\nAda NNP B-per\nsays VB O\n\n. . O\n", encoding="utf-8"
    )
    (tmp_path / "dev.conll").write_text("New York\tB-per\nis\tO\n", encoding="utf-8")
    data = load_data(tmp_path)
    assert (data.kind, data.labels, data.columns) == (WORDS, ("B-per", "O"), ("tokens",))
    assert data.train == (
        Example("Ada says", None, (0, 1), ("Ada", "says")), Example(".", None, (1,), (".",)),
    )  # fmt: skip
    assert data.dev == (Example("New York is", None, (0, 1), ("New York", "is")),)
    told = "\n".join(data.told)
    assert "2 examples to train on, 1 of" in data.told[0]
    assert "a line is a word and its label, 3 words with 2 labels: B-per (1), O (2)" in told
    assert "IOB; outside: O" in told
    assert "1 columns between word and label are not used" in told
    assert "1 lines of -DOCSTART- are left out" in told


def test_tables_of_words(tmp_path: Path) -> None:
    """The same as .conll files; other columns are told."""
    lines = load_data(write_words(tmp_path / "lines", 40, 10))
    lists = load_data(write_words(tmp_path / "lists", 40, 10, table=True))
    assert (lists.train, lists.dev, lists.labels) == (lines.train, lines.dev, TAGS)
    rows = [
        {"id": 3, "words": ["a", "b c"], "ner_tags": ["O", "X"], "pos": ["N", "V"],
         "text": "a b c"},
        {"id": 4, "words": [], "ner_tags": [], "pos": [], "text": ""},
        {"id": 5, "words": ["d"], "ner_tags": ["O"], "pos": ["N"], "text": "d"},
    ]  # fmt: skip
    data = load_data(jsonl(tmp_path / "a.jsonl", rows), split=False)
    assert data.dev == (
        Example("a b c", None, (0, 1), ("a", "b c")), Example("d", None, (0,), ("d",)),
    )  # fmt: skip
    told = "\n".join(data.told)
    assert "'words' has the words, 'ner_tags' the label of each" in told
    assert "'id' (it identifies the example)" in told and "'pos' (other labels of the words" in told
    assert "'text' (the text whose words are used)" in told
    assert "1 example without words left out of" in told
    other = load_data(tmp_path / "a.jsonl", label_column="pos", split=False)
    assert other.labels == ("N", "V") and other.label_column == "pos"


def test_a_tenth_of_the_sentences_is_held_out(tmp_path: Path) -> None:
    write_words(tmp_path, 60, 1)
    (tmp_path / "dev.conll").unlink()
    data = load_data(tmp_path, WORDS)
    assert (len(data.train), len(data.dev)) == (54, 6)
    again = load_data(tmp_path, WORDS)
    assert again.dev == data.dev and load_data(tmp_path, seed=1).dev != data.dev


def test_what_runs_depend_on(tmp_path: Path) -> None:
    """Of other tasks the same as before there were more of them."""
    data = load_data(write_words(tmp_path / "w", 4, 2))
    content = data.content()
    assert content["task"] == WORDS and content["dev"][0]["words"] == data.dev[0].words
    plain = TextData("d", (Example("a", None, 1),), (), ("n", "y"), ("text",))
    assert plain.content() == {
        "name": "d", "train": [{"text": "a", "pair": None, "label": 1}], "dev": [],
        "labels": ("n", "y"), "columns": ("text",),
    }  # fmt: skip


GOOD_ROW = {"tokens": ["a", "b"], "tags": ["O", "B-x"]}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "a.jsonl:2: 2 words in 'tokens' and 1 labels"),
        ({"tokens": ["a"], "tags": [None]}, "a.jsonl:2: entry 1 of 'tags' is no label; fill it in"),
        ({"tokens": ["a"], "tags": [3]}, r"entry 1 of 'tags' is the number 3; .* as .B-person"),
        ({"tokens": [7], "tags": ["O"]}, "entry 1 of 'tokens' is the number 7; write the word"),
        ({"tokens": [""], "tags": ["O"]}, "entry 1 of 'tokens' is no word"),
        ({"tokens": "a b", "tags": ["O", "O"]}, r"'tokens' is no list; give a list .* or a .conll"),
        ({"tokens": ["a"]}, "a.jsonl:2: no 'tags'; add it to the line"),
        ({"tokens": ["a"], "tags": ["O"], "more": "a long text that says more"},
         "'more' has text that would not be used beside tokens"),
    ],
)  # fmt: skip
def test_words_that_cannot_be_used(row: dict[str, object], message: str, tmp_path: Path) -> None:
    file = jsonl(tmp_path / "a.jsonl", [GOOD_ROW, row])
    with pytest.raises(InputError, match=message):
        load_data(file, WORDS)


def test_files_of_words_that_do_not_fit(tmp_path: Path) -> None:
    write_words(tmp_path, 12, 4)
    dev = tmp_path / "dev.conll"
    dev.write_text("a\tO\nb\tB-new\n")
    with pytest.raises(InputError, match=r"dev.conll:1: label 'B-new' is not among the 4 of .*tr"):
        load_data(tmp_path)
    dev.write_text("a\tO\nb\n")
    with pytest.raises(InputError, match=r"dev.conll:2: 'b' has no label"):
        load_data(tmp_path)
    dev.unlink()
    (tmp_path / "dev.tsv").write_text("sentence\tlabel\na b\tyes\n")
    with pytest.raises(InputError, match=r"dev.tsv: no column 'tokens' .* is of words with labels"):
        load_data(tmp_path)
    for task in ("text-classification", SEVERAL):
        with pytest.raises(InputError, match="has a label for each word; give --task token-class"):
            load_data(tmp_path / "train.conll", task)
    (tmp_path / "train.conll").rename(tmp_path / "other.conll")
    (tmp_path / "dev.tsv").rename(tmp_path / "train.tsv")
    (tmp_path / "other.conll").rename(tmp_path / "dev.conll")
    with pytest.raises(InputError, match=r"dev.conll: has a label for each word, and .* one for"):
        load_data(tmp_path)
    with pytest.raises(InputError, match=r"train.tsv: no column 'tokens' among sentence, label"):
        load_data(tmp_path / "train.tsv", WORDS)
    (tmp_path / "one.conll").write_text("a\tO\n\nb\tO\n")
    with pytest.raises(InputError, match="every word has the label 'O'; give at least 2"):
        load_data(tmp_path / "one.conll")
    (tmp_path / "one.conll").write_text("a\tO\nb\tX\n")
    with pytest.raises(InputError, match="1 example with words; give at least 2"):
        load_data(tmp_path / "one.conll")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unlabelled": "-1"}, "--unlabelled -1: every word has a label of its own; leave it out"),
        ({"label_separator": ","}, "--label-separator ,: no example or word of this task has seve"),
        ({"text_columns": ("a",)}, "there are no columns to choose; leave out --text-columns"),
        ({"label_column": "a"}, "there are no columns to choose; leave out --text-columns"),
        ({"task": "tagging"}, "'tagging' is not one of text-classification, text-regression, t"),
    ],
)
def test_options_that_words_have_no_use_for(
    options: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        load_data(write_words(tmp_path, 4, 2), **options)  # type: ignore[arg-type]


def test_texts_without_labels_for_words(tmp_path: Path) -> None:
    data = load_data(write_words(tmp_path / "d", 4, 2))
    (tmp_path / "a.txt").write_text("the film\n", encoding="utf-8")
    assert read_unlabelled(tmp_path / "a.txt", data).examples == (Example("the film", None, None),)
    table = jsonl(tmp_path / "a.jsonl", [{"tokens": ["the", "film"], "tags": ["O", "O"]}])
    found = read_unlabelled(table, data)
    assert found.examples == (Example("the film", None, None),)
    assert "'tags' (no label of this file is used)" in found.told[1]


# Sets of labels.


def test_lists_of_labels(tmp_path: Path) -> None:
    rows = [
        {"text": "a b", "labels": ["y", "x"], "id": 1}, {"text": "c", "labels": [], "id": 2},
        {"text": "d", "labels": ["x"], "id": 3},
    ]  # fmt: skip
    data = load_data(jsonl(tmp_path / "a.jsonl", rows), split=False)
    assert (data.kind, data.labels, data.label_column) == (SEVERAL, ("x", "y"), "labels")
    assert [e.label for e in data.dev] == [(0, 1), (), (0,)]
    told = "\n".join(data.told)
    assert "'text' is the text, 'labels' is the label, 2 labels: x (2), y (1); 1 example w" in told
    assert "1 with none" in told and "'id' (it identifies the example)" in told
    named = load_data(tmp_path / "a.jsonl", SEVERAL, label_column="labels", split=False)
    assert named.dev == data.dev


def test_labels_with_a_separator(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text('sentence,label\none,"10; 9"\ntwo,\nthree,9\nfour,-\n')
    data = load_data(file, label_separator=";", unlabelled="-", split=False)
    assert (data.kind, data.labels) == (SEVERAL, ("9", "10"))
    assert [(e.text, e.label) for e in data.dev] == [("one", (0, 1)), ("two", ()), ("three", (0,))]
    assert any("1 example labelled '-' left out" in line for line in data.told)


def test_pairs_and_a_file_to_compare_with(tmp_path: Path) -> None:
    data = load_data(write_several(tmp_path, 30, 8))
    assert (len(data.train), len(data.dev)) == (30, 8)
    assert data.labels == ("blame", "plot", "praise")
    pairs = [{"text": "a", "text_pair": "b", "label": ["x"]}] * 2
    found = load_data(jsonl(tmp_path / "p.jsonl", pairs), split=False)
    assert found.dev[0] == Example("a", "b", (0,)) and found.kind == SEVERAL
    (tmp_path / "dev.jsonl").unlink()
    held = load_data(tmp_path / "train.jsonl")
    assert len(held.dev) == 3


@pytest.mark.parametrize(
    ("label", "options", "message"),
    [
        ([0, 1], {}, r"a.jsonl:3: entry 1 of 'label' is the number 0; give the names of the l"),
        ([True], {}, "entry 1 of 'label' is the number true"),
        (["x", ""], {}, "entry 2 of 'label' is no label"),
        (["x", "x"], {}, "label 'x' stands twice"),
        ("x, y", {}, r"labels are text, 'x, y'; say what .* as --label-separator ','"),
        (None, {}, r"'label' is null; give a list of labels, \[\] where none"),
        (3, {}, "'label' is no list; give a list of labels"),
        (["x"], {"label_separator": ","}, "labels are a list, which --label-separator parts no"),
    ],
)
def test_sets_that_cannot_be_used(
    label: object, options: dict[str, str], message: str, tmp_path: Path
) -> None:
    first = "x" if options else ["x"]
    labels = zip("abc", (first, first, label), strict=True)
    rows = [{"text": text, "label": own} for text, own in labels]
    with pytest.raises(InputError, match=message):
        load_data(jsonl(tmp_path / "a.jsonl", rows), SEVERAL, **options)  # type: ignore[arg-type]


def test_sets_that_do_not_fit(tmp_path: Path) -> None:
    write_several(tmp_path, 20, 5)
    jsonl(tmp_path / "dev.jsonl", [{"text": "a", "labels": ["plot"]},
                                   {"text": "b", "labels": ["plot", "new"]}])  # fmt: skip
    with pytest.raises(InputError, match=r"dev.jsonl:2: label 'new' is not among the 3 of .*train"):
        load_data(tmp_path)
    jsonl(tmp_path / "dev.jsonl", [{"text": "a", "labels": "plot"}] * 2)
    with pytest.raises(InputError, match=r"dev.jsonl:1: labels are text, 'plot'"):
        load_data(tmp_path)
    none = jsonl(tmp_path / "none.jsonl", [{"text": "a", "labels": []}] * 3)
    with pytest.raises(InputError, match="no example has a label"):
        load_data(none)
    parts = tmp_path / "a.tsv"
    parts.write_text("text\tlabel\na\tx,,y\nb\tx\n")
    with pytest.raises(InputError, match=r"a.tsv:2: an empty label in 'x,,y'"):
        load_data(parts, label_separator=",")
    with pytest.raises(InputError, match="--label-separator is empty"):
        load_data(parts, label_separator="")
    with pytest.raises(InputError, match="has several labels; leave it out, or give --task mul"):
        load_data(parts, "text-classification", label_separator=",")
    with pytest.raises(InputError, match="or --task multi-label-classification if lists say"):
        load_data(tmp_path / "none.jsonl", "text-classification", label_column="labels")


def test_lists_of_data_sets_by_name() -> None:
    """Their classes are numbers with names, in the data set's own order."""
    datasets = pytest.importorskip("datasets")
    from canao.train.reading import named
    from canao.train.reading.examples import Asked
    from canao.train.tasks import task_named

    names = datasets.ClassLabel(names=["O", "B-x", "A-y"])
    text = datasets.Value("string")
    words = datasets.Dataset.from_dict(
        {"tokens": [["a", "b"], ["c"]], "ner_tags": [[0, 1], [0]], "id": ["1", "2"]},
        features=datasets.Features({"tokens": datasets.List(text), "id": text,
                                    "ner_tags": datasets.List(names)}),
    )  # fmt: skip
    table = named._table(datasets, words, "some/words train")
    assert task_named(WORDS).claims(table, Asked()) and not task_named(SEVERAL).claims(
        table, Asked()
    )
    read = task_named(WORDS).read(table, None, Asked())
    assert read.names == ("O", "B-x", "A-y") and read.train[0].label == (0, 1)
    sets = datasets.Dataset.from_dict(
        {"text": ["a", "b"], "labels": [[2, 0], []]},
        features=datasets.Features({"text": text, "labels": datasets.List(names)}),
    )
    read = task_named(SEVERAL).read(named._table(datasets, sets, "some/sets"), None, Asked())
    assert read.names == ("O", "B-x", "A-y") and [e.label for e in read.train] == [(0, 2), ()]

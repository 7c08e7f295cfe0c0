from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from canao.errors import InputError
from canao.train.data import Example, load_data


def put(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def tsv(rows: list[str], header: str = "sentence\tlabel") -> str:
    return "\n".join([header, *rows]) + "\n"


ENOUGH = [f"text {i}\t{i % 2}" for i in range(40)]


def test_tsv_takes_quotes_as_they_are(tmp_path: Path) -> None:
    put(tmp_path, "train.tsv", tsv(['"a lone quote\t0', 'two "" of them\t1']))
    put(tmp_path, "dev.tsv", tsv(['end"\t1']))
    data = load_data(tmp_path)
    assert data.train == (Example('"a lone quote', None, 0), Example('two "" of them', None, 1))
    assert data.dev == (Example('end"', None, 1),)
    assert (data.labels, data.columns, data.regression) == (("0", "1"), ("sentence",), False)
    assert data.name == tmp_path.name


def test_csv_unquotes_and_may_span_lines(tmp_path: Path) -> None:
    text = 'label,text,id\nno,"one, two",7\nyes,"say ""hi""\nthere\u2028x",8\n'
    put(tmp_path, "train.csv", text)
    put(tmp_path, "validation.csv", "text,label\nx,no\n")
    data = load_data(tmp_path)
    assert [e.text for e in data.train] == ["one, two", 'say "hi"\nthere\u2028x']
    assert (data.labels, data.columns) == (("no", "yes"), ("text",))


def test_json_lines_pairs_and_values(tmp_path: Path) -> None:
    lines = ['{"sentence1": "a", "sentence2": "b", "label": 1}',
             '{"label": 2.5, "sentence2": "d", "sentence1": "c"}']  # fmt: skip
    put(tmp_path, "train.jsonl", "\n".join(lines))
    put(tmp_path, "test.jsonl", lines[0] + "\n\n")
    data = load_data(tmp_path)
    assert data.regression and data.columns == ("sentence1", "sentence2")
    assert data.train == (Example("a", "b", 1.0), Example("c", "d", 2.5))


def test_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    put(tmp_path, "train.tsv", b"\xef\xbb\xbfsentence\tlabel\r\na\tx\r\nb\ty\r\n")
    put(tmp_path, "dev.tsv", tsv(["c\tx"]))
    assert load_data(tmp_path).labels == ("x", "y")


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (["10", "9", "-1"], ("-1", "9", "10")),
        (["10", "9", "b"], ("10", "9", "b")),
        (["true", "false"], ("false", "true")),
        (["1", "2"], ("1", "2")),
    ],
)
def test_classes_sort_by_number_or_by_name(
    tmp_path: Path, names: list[str], order: tuple[str, ...]
) -> None:
    rows = [f"t{i}\t{name}" for i, name in enumerate(names)]
    put(tmp_path, "train.tsv", tsv(rows))
    put(tmp_path, "dev.tsv", tsv(rows))
    data = load_data(tmp_path)
    assert data.labels == order
    assert [data.labels[e.label] for e in data.train] == names


def test_whole_numbers_are_values_if_the_task_says_so(tmp_path: Path) -> None:
    put(tmp_path, "train.tsv", tsv(["a\t1", "b\t3"]))
    put(tmp_path, "dev.tsv", tsv(["a\t2"]))
    with pytest.raises(InputError, match="'2' is not among"):
        load_data(tmp_path)
    assert load_data(tmp_path, "text-regression").dev[0].label == 2.0


def test_one_file_is_split_in_the_classes_proportions(tmp_path: Path) -> None:
    rows = [f"n{i}\tno" for i in range(300)] + [f"y{i}\tyes" for i in range(100)] + ["r\trare"]
    path = put(tmp_path, "all.tsv", tsv(rows))
    data = load_data(path)
    counts = Counter(data.labels[e.label] for e in data.dev)
    assert counts == {"no": 30, "yes": 10} and data.name == "all"
    assert {e.text for e in data.train + data.dev} == {row.split("\t")[0] for row in rows}
    assert not {e.text for e in data.train} & {e.text for e in data.dev}
    assert load_data(path) == data
    assert load_data(path, seed=1).dev != data.dev


def test_values_are_split_over_their_range(tmp_path: Path) -> None:
    path = put(tmp_path, "all.tsv", tsv([f"t{i}\t{i / 10}" for i in range(100)]))
    held = sorted(e.label for e in load_data(path).dev)
    assert len(held) == 10 and held[0] < 1.0 and held[-1] > 9.0


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.tsv", "", "empty"),
        ("t.tsv", "sentence\tlabel\n", "a header and no examples"),
        ("t.tsv", tsv(ENOUGH, "sentence\tclass"), "no column 'label' among sentence, class"),
        ("t.tsv", tsv(ENOUGH, "words\tlabel"), "no text column among words, label"),
        ("t.tsv", tsv(ENOUGH, "label\tlabel"), "stands twice"),
        ("t.tsv", tsv([*ENOUGH, "a\tb\t1"]), ":42: 3 fields, the header has 2"),
        ("t.tsv", tsv([*ENOUGH, "a\t "]), ":42: empty label"),
        ("t.tsv", tsv(["a\t1"]), "1 example; give at least 2"),
        ("t.tsv", tsv(["a\t1", "b\t1"]), "every label is '1'"),
        ("t.tsv", tsv(["a\t1.5", "b\t1.5"]), "every label is 1.5"),
        ("t.tsv", tsv(["a\t1", "b\t0"]), "too few examples"),
        ("t.tsv", tsv([*ENOUGH, "a\tnan"]), ":42: label 'nan' is not a finite number"),
        ("t.tsv", tsv(["a\t0.5", "b\t1.0", "c\tinf"]), ":4: label 'inf' is not a finite"),
        ("t.tsv", tsv(["a\t0.5", "b\t1.0", "c\t1,0"]), ":4: label '1,0' is not a number"),
        ("t.txt", "x", "extension '.txt' is not .tsv, .csv, .jsonl"),
        ("t.csv", 'text,label\n"a,1\n', ":2: not valid CSV"),
        ("t.jsonl", "{]\n", ":1: not JSON"),
        ("t.jsonl", "[1]\n", ":1: not a JSON object"),
        ("t.jsonl", '{"text": 3, "label": 1}\n', ":1: 'text' is not a string"),
        ("t.jsonl", '{"text": "a", "label": null}\n', ":1: label is neither"),
        ("t.jsonl", '{"text": "a", "label": 1}\n{"text": "b"}\n', ":2: no 'label'"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = put(tmp_path, name, text)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        load_data(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_not_utf8_names_the_line(tmp_path: Path) -> None:
    path = put(tmp_path, "t.tsv", b"sentence\tlabel\nok\t1\ncaf\xe9\t0\n")
    with pytest.raises(InputError, match=r"t\.tsv:3: not UTF-8"):
        load_data(path)


def test_missing_and_doubled_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_data(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"no train\.tsv"):
        load_data(tmp_path)
    put(tmp_path, "train.tsv", tsv(ENOUGH))
    put(tmp_path, "train.csv", "x")
    with pytest.raises(InputError, match=r"both train.csv and train.tsv"):
        load_data(tmp_path)


def test_dev_must_fit_train(tmp_path: Path) -> None:
    put(tmp_path, "train.tsv", tsv(ENOUGH))
    dev = put(tmp_path, "dev.tsv", tsv(["a\t0", "b\t2"]))
    with pytest.raises(InputError, match=r"dev\.tsv:3: label '2' is not among"):
        load_data(tmp_path)
    dev.write_text(tsv(["a\tb\t0"], "sentence1\tsentence2\tlabel"))
    with pytest.raises(InputError, match="use the same columns"):
        load_data(tmp_path)


def test_unknown_task(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="task 'ner' is not one of text-classification"):
        load_data(tmp_path, "ner")

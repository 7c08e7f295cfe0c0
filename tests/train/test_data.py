from __future__ import annotations

import csv
import gzip
import io
import os
import re
import time
import zlib
from collections import Counter
from pathlib import Path

import pytest

from canao.cli import app as cli
from canao.errors import InputError
from canao.model.inventory.table import INERT
from canao.train.data import Example, load_data
from canao.train.reading.columns import COLUMNS, PAIRS


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
        ("t.jsonl", "{]\n", ":1: cannot be read as JSON"),
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


def pair_file(folder: Path, *names: str, more: str = "", cells: str = "") -> Path:
    """Twenty pairs of sentences in two columns, their labels, and what `more` and `cells` add."""
    rows = [f"what is it about this?\tit is about {i} of them\t{i % 2}{cells}" for i in range(20)]
    return put(folder, "pairs.tsv", tsv(rows, "\t".join([*names, "label"]) + more))


@pytest.mark.parametrize("pair", PAIRS)
def test_known_pairs_of_columns(tmp_path: Path, pair: tuple[str, str]) -> None:
    for names in (pair, pair[::-1]):  # the order is that of the names, not of the file
        data = load_data(pair_file(tmp_path, *names, more="\tidx", cells="\t7"))
        assert data.columns == pair
        first = data.train[0]
        assert first.pair is not None
        assert first.text.startswith("what" if names == pair else "it is")
        assert all(f"'{name}'" in data.told[1] for name in pair)
        assert data.told[2] == "not used: 'idx' (it numbers the examples)"


@pytest.mark.parametrize(
    ("names", "unused"),
    [
        (("text1", "text"), "text1"),
        (("sentence", "context"), "context"),
        (("text", "aspect"), "aspect"),
        (("sentence1", "text"), "sentence1"),
        (("sentence", "source"), "source"),  # by its name without effect, but it has sentences
    ],
)
def test_a_text_that_would_not_be_used_is_refused(
    tmp_path: Path, names: tuple[str, str], unused: str
) -> None:
    path = pair_file(tmp_path, *names)
    with pytest.raises(InputError, match=f"'{unused}' has text that would not be used") as caught:
        load_data(path)
    assert "--text-columns" in str(caught.value)
    data = load_data(path, text_columns=names)
    assert data.columns == names and data.train[0].text.startswith("what")
    data = load_data(path, text_columns=[names[0]])
    assert data.columns == names[:1]
    assert f"'{names[1]}' (it is not among the columns named" in data.told[2]


def test_three_texts_are_refused_and_two_of_them_can_be_named(tmp_path: Path) -> None:
    rows = [f"a b c d\te f g h\ti j k l\t{i % 2}" for i in range(20)]
    path = put(tmp_path, "t.tsv", tsv(rows, "word\tsentence1\tsentence2\tlabel"))
    with pytest.raises(InputError, match="'word' has text that would not be used beside sentence1"):
        load_data(path)
    assert load_data(path, text_columns=["word", "sentence2"]).train[0].pair == "i j k l"
    with pytest.raises(InputError, match="give one column, or two that differ"):
        load_data(path, text_columns=["word", "sentence1", "sentence2"])
    with pytest.raises(InputError, match="no column 'words' among word, sentence1"):
        load_data(path, text_columns=["words"])
    with pytest.raises(InputError, match="cannot be both text and label"):
        load_data(path, text_columns=["word"], label_column="word")


@pytest.mark.parametrize(
    "column",
    ["idx", "ID", "guid", "pair_ID", "#1 ID", "Unnamed: 0", "url", "source", "timestamp", "genre",
     "label_text", "promptID", "", "__index_level_0__"],
)  # fmt: skip
def test_columns_without_effect(tmp_path: Path, column: str) -> None:
    rows = [f"x{i}\ta text of {i}\t{i % 2}" for i in range(20)]
    data = load_data(put(tmp_path, "t.tsv", tsv(rows, f"{column}\tsentence\tlabel")))
    assert data.columns == ("sentence",) and data.told[2].startswith("not used: ")


def test_numbers_and_empty_columns_are_noted(tmp_path: Path) -> None:
    rows = [f"a text of {i}\t{i / 7}\t\t{i % 2}" for i in range(20)]
    data = load_data(put(tmp_path, "t.tsv", tsv(rows, "text\tstars\tremark\tlabel")))
    assert data.told[2] == (
        "not used: 'stars' (it has numbers, no text), 'remark' (it is empty)"
    )


def test_every_line_of_json_is_looked_at_for_texts(tmp_path: Path) -> None:
    lines = [f'{{"text": "a {i}", "label": {i % 2}}}' for i in range(20)]
    lines[7] = '{"text": "a", "answer": "another text", "label": 1}'
    path = put(tmp_path, "t.jsonl", "\n".join(lines))
    with pytest.raises(InputError, match="'answer' has text that would not be used"):
        load_data(path)
    lines[7] = '{"text": "a", "about": {"why": ["x"]}, "label": 1}'
    path = put(tmp_path, "t.jsonl", "\n".join(lines))
    with pytest.raises(InputError, match="'about' has text that would not be used"):
        load_data(path)


def test_columns_are_named_by_options(tmp_path: Path) -> None:
    head = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"
    rows = [f"{i % 2}\t{i}\t{i + 1}\tone text\tanother {i}" for i in range(20)]
    path = put(tmp_path, "mrpc.tsv", "\ufeff" + tsv(rows, head))
    with pytest.raises(InputError, match=r"no column 'label' among Quality.*--label-column"):
        load_data(path)
    data = load_data(path, text_columns=["#1 String", "#2 String"], label_column="Quality")
    assert data.columns == ("#1 String", "#2 String") and data.label_column == "Quality"
    assert "'#1 ID' (it identifies the example)" in data.told[2]


@pytest.mark.parametrize(
    ("labels", "task", "names"),
    [
        (["0.0", "1.0"], None, ("0", "1")),
        (["0", "1.0"], None, ("0", "1")),
        (["1.0", "2.0", "3.0"], "text-classification", ("1", "2", "3")),
        (["1.000000000000000000e+00", "0.000000000000000000e+00"], None, ("0", "1")),
        (["-1.0", "1."], None, ("-1", "1")),
        (["-0.0", "1.0"], None, ("0", "1")),
        (["01", "1"], None, ("01", "1")),
        (["0.5", "0.50", "1.0"], "text-classification", ("0.5", "1")),
        (["0.5", "1.0"], None, ()),
        (["0.0", "1.0"], "text-regression", ()),
        (["true", "false"], None, ("false", "true")),
        (["+", "-"], None, ("+", "-")),
        (["none", "joy"], None, ("joy", "none")),
    ],
)
def test_labels_written_as_numbers(
    tmp_path: Path, labels: list[str], task: str | None, names: tuple[str, ...]
) -> None:
    rows = [f"text {i}\t{labels[i % len(labels)]}" for i in range(40)]
    data = load_data(put(tmp_path, "t.tsv", tsv(rows)), task)
    assert data.labels == names and data.regression == (names == ())
    said = " ".join(data.told)
    assert ("so this is a regression" in said) == (not names and task is None)
    whole = sorted(data.train + data.dev, key=lambda e: int(e.text.split()[1]))
    for i, example in enumerate(whole):
        text = labels[i % len(labels)]
        if not names:
            assert example.label == float(text)
        elif text.strip("+-.e0123456789") == "" and text not in "+-" and "01" not in labels:
            assert float(names[int(example.label)]) == float(text)
        else:
            assert names[int(example.label)] == text


def test_float_labels_of_json_are_classes_too(tmp_path: Path) -> None:
    lines = [f'{{"text": "a {i}", "label": {i % 2}.0}}' for i in range(20)]
    put(tmp_path, "train.jsonl", "\n".join(lines))
    put(tmp_path, "dev.csv", "text,label\na,1\nb,0.0\n")
    data = load_data(tmp_path)
    assert data.labels == ("0", "1") and [e.label for e in data.dev] == [1, 0]


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        ("NA", "'NA' is not a number, as all others are"),
        ("None", "'None' is not a number, as all others are"),
        ("-", "'-' is not a number, as all others are"),
        ("inf", "'inf' is not a finite number"),
        ("-nan", "'-nan' is not a finite number"),
    ],
)
def test_a_missing_value_among_numbers_is_no_class(
    tmp_path: Path, odd: str, message: str
) -> None:
    for rows in (ENOUGH, [f"t\t{i / 3}" for i in range(30)]):
        path = put(tmp_path, "t.tsv", tsv([*rows, f"a\t{odd}"]))
        with pytest.raises(InputError, match=f":{len(rows) + 2}: label {re.escape(message)}"):
            load_data(path)


def test_real_numbers_are_no_classes_if_nearly_all_differ(tmp_path: Path) -> None:
    path = put(tmp_path, "t.tsv", tsv([f"t\t{i / 7}" for i in range(30)]))
    assert load_data(path).regression
    with pytest.raises(InputError, match=r"30 labels that differ in 30 .* --task text-regression"):
        load_data(path, "text-classification")


def test_minus_one_may_be_a_class_or_say_that_there_is_none(tmp_path: Path) -> None:
    path = put(tmp_path, "t.tsv", tsv([f"t{i}\t{i % 3 - 1}" for i in range(30)]))
    data = load_data(path)
    assert data.labels == ("-1", "0", "1")
    assert any(line.startswith("-1 is taken for a class, with 10 examples") for line in data.told)
    data = load_data(path, unlabelled="-1")
    assert data.labels == ("0", "1") and len(data.train + data.dev) == 20
    assert any(line.startswith("10 examples labelled '-1' left out") for line in data.told)
    two = put(tmp_path, "two.tsv", tsv([f"t{i}\t{i % 2 * 2 - 1}" for i in range(30)]))
    assert not any("-1 is taken" in line for line in load_data(two).told)


def test_a_test_set_without_labels_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "train.tsv", tsv(ENOUGH))
    test = put(tmp_path, "test.tsv", tsv(["a\t-1", "b\t-1"]))
    with pytest.raises(InputError, match=r"test.tsv: every label is -1, which says 'no label'"):
        load_data(tmp_path)
    with pytest.raises(InputError, match=r"test.tsv: every label is '-1', which says 'no label'"):
        load_data(test)


QUOTED = [('she said "no"', 1), ("a\ttab", 1), ("two\nlines", 1), ("plain, with a comma", 0)] * 5


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_NONNUMERIC])
@pytest.mark.parametrize("sort", ["all", "quotes", "tabs", "lines"])
def test_a_quoted_tsv_is_read_as_it_was_written(tmp_path: Path, quoting: int, sort: str) -> None:
    kept = {"all": range(4), "quotes": (0, 3), "tabs": (1, 3), "lines": (2, 3)}[sort]
    rows = [row for i, row in enumerate(QUOTED) if i % 4 in kept]
    stream = io.StringIO(newline="")
    stream.write("sentence\tlabel\n")
    csv.writer(stream, delimiter="\t", quoting=quoting, lineterminator="\n").writerows(rows)
    data = load_data(put(tmp_path, "t.tsv", stream.getvalue()))
    assert sorted(e.text for e in data.train + data.dev) == sorted(text for text, _ in rows)
    assert "fields in quotes are read as CSV has them" in data.told


@pytest.mark.parametrize(
    "texts",
    [
        ['"a lone quote', "plain, with a comma"],
        ['two "" of them', '"whole"'],
        ['"whole" and more', "x"],
        ['"the first', 'the last"'],  # one quoted field over two lines, if lines were not whole
        ['"A whole sentence."', "x, y"],
    ],
)
def test_quotes_of_glue_are_text(tmp_path: Path, texts: list[str]) -> None:
    rows = [f"{text}\t{i % 2}" for i, text in enumerate(texts * 6)]
    data = load_data(put(tmp_path, "t.tsv", tsv(rows)))
    assert sorted(e.text for e in data.train + data.dev) == sorted(texts * 6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (tsv(['"a text"\t"0"'] * 9, '"sentence"\t"label"'), ':1: every name .* in quotes \\("\\)'),
        (tsv([f'"a, b"\t{i % 2}' for i in range(9)]), ":2: quotes .* may be text or quoting"),
        (tsv(["a;0"] * 9, "text;label"), ":1: fields are separated by semicolons, not tabs"),
        (tsv(["a,0"] * 9, "text,label"), ":1: .* by commas, not tabs; name the file .csv"),
        (tsv(["gj04\t1\t\tThe book is good."] * 9, "gj04\t1\t\tA book is bad."), "write a header"),
        (tsv(ENOUGH, "Sentence\tLabel"), "no column 'label' among Sentence, Label; name it"),
        (tsv(ENOUGH, "text\ttext\tlabel"), ":1: a column name stands twice, 'text'"),
        ("sep=\t\n" + tsv(ENOUGH), ":1: 'sep=' is a spreadsheet's note"),
        (tsv([*ENOUGH, "a\0b\t1"]), ":42: has a null character"),
    ],
)
def test_files_that_are_otherwise_are_refused_with_the_remedy(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load_data(put(tmp_path, "t.tsv", text))
    assert "\n" not in str(caught.value) and ";" in str(caught.value)


def test_a_trailing_tab_is_nothing(tmp_path: Path) -> None:
    rows = [f"text {i}\t{i % 2}" for i in range(20)]
    for head, body in (("sentence\tlabel\t", [r + "\t" for r in rows]), ("sentence\tlabel\t", rows),
                       ("sentence\tlabel", [r + "\t\t" for r in rows])):  # fmt: skip
        assert load_data(put(tmp_path, "t.tsv", tsv(body, head))).labels == ("0", "1")


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-le", "utf-32"])
def test_wide_encodings_are_named(tmp_path: Path, codec: str) -> None:
    path = put(tmp_path, "t.tsv", tsv(ENOUGH).encode(codec))
    with pytest.raises(InputError, match=r"UTF-(16|32).*iconv -f UTF-"):
        load_data(path)


@pytest.mark.parametrize("name", ["t.tsv", "t.csv", "t.jsonl"])
def test_gzip_is_read(tmp_path: Path, name: str) -> None:
    lines = "\n".join(f'{{"text": "a {i}", "label": {i % 2}}}' for i in range(40))
    texts = {"t.tsv": tsv(ENOUGH), "t.csv": tsv(ENOUGH).replace("\t", ","), "t.jsonl": lines}
    text = texts[name]
    plain = load_data(put(tmp_path, name, text))
    half = text.encode()[:300]
    packed = gzip.compress(half) + gzip.compress(text.encode()[300:])  # members, as cat makes them
    data = load_data(put(tmp_path, f"{name}.gz", packed))
    assert data.train == plain.train and data.dev == plain.dev and data.name == "t" == plain.name
    (tmp_path / "d").mkdir()
    put(tmp_path / "d", f"train{name[1:]}.gz", packed)
    assert load_data(tmp_path / "d").labels == ("0", "1")
    other = packed[:40] + b"xxxx" + packed[44:]
    for broken in (packed[:-9], packed[: len(packed) // 2], b"no gzip" * 9, other):
        with pytest.raises(InputError, match=r"gzip|middle of its data"):
            load_data(put(tmp_path, f"b{name[1:]}.gz", broken))
    with pytest.raises(InputError, match=r"holds gzip data; name it"):
        load_data(put(tmp_path, name, packed))


def test_a_decompression_bomb_is_limited(tmp_path: Path) -> None:
    packed = zlib.compressobj(9, wbits=31)
    data = b"".join(packed.compress(bytes(1 << 20)) for _ in range(100)) + packed.flush()
    path = put(tmp_path, "t.tsv.gz", data)
    begun = time.monotonic()
    with pytest.raises(InputError, match="bytes that hold more than"):
        load_data(path)
    assert time.monotonic() - begun < 30


@pytest.mark.parametrize("name", ["t.xlsx", "t.parquet", "t.json", "t.txt"])
def test_other_kinds_of_files_are_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"extension '{name[1:]}' is not .tsv, .csv, .jsonl;"):
        load_data(put(tmp_path, name, b"PK\x03\x04"))
    with pytest.raises(InputError, match="holds zip data; give its text"):
        load_data(put(tmp_path, "t.csv", b"PK\x03\x04 and so on"))


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "t.tsv")
    with pytest.raises(InputError, match="not a regular file"):
        load_data(tmp_path / "t.tsv")
    os.mkfifo(tmp_path / "train.tsv")
    with pytest.raises(InputError, match="not a regular file"):
        load_data(tmp_path)
    put(tmp_path, "deep.jsonl", '{"text": ' + "[" * 100_000)
    with pytest.raises(InputError, match=r"deep\.jsonl:1: .*; write one JSON object a line"):
        load_data(tmp_path / "deep.jsonl")


def test_odd_examples_are_told(tmp_path: Path) -> None:
    put(tmp_path, "train.tsv", tsv([*ENOUGH, "\t1"]))
    put(tmp_path, "dev.tsv", tsv(["text 3\t1", "new\t0"]))
    told = load_data(tmp_path).told
    assert "1 example with an empty text" in told
    assert "1 of 2 examples to compare with are among those to train on, too" in told
    assert told[0].startswith(f"{tmp_path}: 41 examples to train on, 2 of {tmp_path}/dev.tsv")
    assert told[1] == "'sentence' is the text, 'label' is the label, 2 classes: 0 (20), 1 (21)"
    assert not any("too few to learn" in line for line in told)


def test_a_class_of_one_example_is_told(tmp_path: Path) -> None:
    put(tmp_path, "train.tsv", tsv([*ENOUGH, "alone\t2"]))
    put(tmp_path, "dev.tsv", tsv(["text 3\t1", "new\t0"]))
    (line,) = (line for line in load_data(tmp_path).told if "too few to learn" in line)
    assert line.startswith("one example to train on of 2: too few to learn a class")


def test_other_tables_of_a_directory_are_told(tmp_path: Path) -> None:
    for name in ("train.tsv", "dev_matched.tsv", "test.csv"):
        put(tmp_path, name, tsv(ENOUGH).replace("\t", "," if name.endswith("csv") else "\t"))
    assert "files that are not used: dev_matched.tsv" in load_data(tmp_path).told
    put(tmp_path, "dev.tsv", tsv(ENOUGH))
    assert "files that are not used: dev_matched.tsv, test.csv" in load_data(tmp_path).told


def test_long_fields_and_old_line_ends(tmp_path: Path) -> None:
    long = "word " * 60_000
    put(tmp_path, "train.csv", f'text,label\n"{long}",1\nb,0\n')
    put(tmp_path, "dev.csv", "text,label\rx,1\ry,0\r")
    data = load_data(tmp_path)
    assert data.train[0].text == long and len(data.dev) == 2


def test_a_path_that_exists_is_never_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "glue").mkdir()
    (tmp_path / "glue" / "mrpc").mkdir()
    put(tmp_path / "glue" / "mrpc", "train.tsv", tsv(ENOUGH))
    assert load_data("glue/mrpc").source == str(tmp_path / "glue" / "mrpc")
    with pytest.raises(InputError, match="have no revision"):
        load_data("glue/mrpc", revision="main")
    for name in ("./none", "none.tsv", "/none", "a/b/c/d", "none/", "/" + "x" * 5000):
        with pytest.raises(InputError, match="no such file or directory; give the task's data"):
            load_data(name)


def test_the_document_has_every_column_that_is_known() -> None:
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    for (first, second), by in PAIRS.items():
        assert f"| `{first}`, `{second}` | {by} |" in text
    for name, entry in COLUMNS.entries.items():
        if entry.status == INERT and name:
            why = re.escape(entry.does.format(name="NAME"))
            assert re.search(rf"`{name}`[^|]*\| {why} \|", text), name


def test_options_of_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They reach the data, which are read before anything else of a search is."""
    path = put(tmp_path, "t.tsv", tsv([f"a\tb\t{i % 3 - 1}" for i in range(30)], "a\tb\tscore"))

    def said(*options: str) -> str:
        command = ["canao", "search", "--teacher", str(tmp_path), "--data", str(path),
                   "--budget-ms", "5", "--device", "null", "-o", str(tmp_path / "run")]  # fmt: skip
        monkeypatch.setattr("sys.argv", [*command, *options])
        with pytest.raises(SystemExit) as left:
            cli.main()
        assert left.value.code == 2 and not (tmp_path / "run").exists()
        return capsys.readouterr().err

    assert "no column 'label' among a, b, score" in said()
    named = ("--text-columns", "a,b", "--label-column", "score")
    assert "no text column among a, b, score" in said(*named[2:])
    assert "no config.json" in said(*named)  # so the data are understood
    assert "no config.json" in said(*named, "--unlabelled", "-1")
    assert "no column 'c' among a, b, score" in said("--text-columns", "a,c")
    assert "have no revision" in said(*named, "--data-revision", "main")
    assert "task 'x' is not one of" in said(*named, "--task", "x")

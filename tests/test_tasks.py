"""Texts in, results out: each task beside Transformers, with tokenizers of three kinds."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer

import canao
from canao.artifact.files import file_digest
from canao.artifact.manifest import sealed
from canao.inference.compiled_model import CompiledModel
from canao.inference.tasks.classify import classify, regress
from canao.inference.tasks.entities import trimmed
from canao.inference.tasks.windows import cut_windows, joined
from canao.model.tokenizing.files import describe_tokenizer
from canao.model.tokenizing.tokenizer import read_tokenizer
from tests import tokens
from tests.heads import LONGEST, TAGS, fast_tokenizer, save_model
from tests.oracle import SHALLOW, assert_close

TEXT = "Ada Lovelace worked in London, with Charles Babbage."
CONTEXT = tokens.SENTENCES[0]
Made = tuple[CompiledModel, Any, Any]
Make = Callable[..., Made]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """(compiled, Transformers' model, its tokenizer) of a head; each is made once."""
    made: dict[str, Made] = {}

    def compiled(head: str, kind: str = "WordPiece", **settings: Any) -> Made:
        key = f"{head} {kind} {settings}"
        if key not in made:
            folder = tmp_path_factory.mktemp("model")
            model, tokenizer = save_model(head, folder, kind=kind, **settings)
            made[key] = canao.compile(folder), model, tokenizer
        return made[key]

    return compiled


def pipeline(task: str, made: Made, **settings: Any) -> Any:
    return transformers.pipeline(task, model=made[1], tokenizer=made[2], device="cpu", **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"num_labels": 3},
        {"num_labels": 3, "problem_type": "multi_label_classification"},
        {"num_labels": 2, "problem_type": "regression"},
        {"num_labels": 1, "problem_type": "regression"},
    ],
    ids=["single", "multi", "values", "value"],
)
def test_classification(make: Make, settings: dict[str, Any]) -> None:
    made = make("ForSequenceClassification", **settings)
    for text, pair in ((TEXT, None), (TEXT, CONTEXT)):
        given = text if pair is None else {"text": text, "text_pair": pair}
        want = {w["label"]: w["score"] for w in pipeline("text-classification", made)(
            given, top_k=None)}  # fmt: skip
        got = made[0].predict(text, pair)
        if settings["num_labels"] == 1:
            want = {"score": want["LABEL_0"]}
        assert dict(got.scores) == pytest.approx(want, abs=SHALLOW)
    manifest = made[0].artifact.manifest
    regression = settings.get("problem_type") == "regression"
    assert manifest["task"] == ("text-regression" if regression else "text-classification")
    if not regression:
        assert [s for _, s in got.scores] == sorted((s for _, s in got.scores), reverse=True)
        assert len(made[0].predict(TEXT, top=2).scores) == 2


@pytest.mark.parametrize("kind", sorted(tokens.KINDS))
@pytest.mark.parametrize("strategy", ("none", "simple", "first", "average", "max"))
@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")
def test_entities(make: Make, strategy: str, kind: str) -> None:
    made = make("ForTokenClassification", kind, id2label=dict(enumerate(TAGS)),
                label2id={tag: i for i, tag in enumerate(TAGS)})  # fmt: skip
    found = 0
    for text in (TEXT, *tokens.SENTENCES):
        want = pipeline("token-classification", made, aggregation_strategy=strategy)(text)
        # Tokens that are nothing but blanks are no entities here, and blanks around others no part.
        want = [w | dict(zip(("start", "end"), trimmed(text, w["start"], w["end"]), strict=True))
                for w in want if text[w["start"] : w["end"]].strip()]  # fmt: skip
        got = made[0].predict(text, aggregate=strategy)
        found += len(got)
        name = "entity" if strategy == "none" else "entity_group"
        assert [(e.label, e.start, e.end) for e in got] == [
            (w[name], w["start"], w["end"]) for w in want
        ]
        if want:
            scores = [float(w["score"]) for w in want]
            assert_close([e.score for e in got], scores, text, tolerance=SHALLOW)
        assert all(e.text == text[e.start : e.end] for e in got)
    assert found > 10


@pytest.mark.parametrize("kind", ("BPE", "Unigram"))
def test_entities_are_words_without_blanks(make: Make, kind: str) -> None:
    model = make("ForTokenClassification", kind, id2label=dict(enumerate(TAGS)),
                 label2id={tag: i for i, tag in enumerate(TAGS)})[0]  # fmt: skip
    found = [(text, entity) for text in tokens.SENTENCES for entity in model.predict(text)]
    assert len(found) > 10
    for text, entity in found:
        assert entity.text == text[entity.start : entity.end] == entity.text.strip() != ""
        if kind == "Unigram":  # BPE has no words of its own: an entity may begin within one
            assert entity.start == 0 or not text[entity.start - 1].isalpha()


@pytest.mark.parametrize("kind", sorted(tokens.KINDS))
def test_entities_of_a_long_text(make: Make, kind: str) -> None:
    """Every token has the label of the window that shows most around it; nothing is left out."""
    compiled, model, tokenizer = make("ForTokenClassification", kind,
                                      id2label=dict(enumerate(TAGS)),
                                      label2id={tag: i for i, tag in enumerate(TAGS)})  # fmt: skip
    text = " ".join(tokens.SENTENCES * 4)
    encoded = tokenizer(text, return_offsets_mapping=True)
    ids, count = encoded["input_ids"], len(encoded["input_ids"]) - 2
    best = [(-1, "", 0.0)] * count
    starts = [*range(0, count - 62, 31), count - 62]
    assert len(starts) > 3
    for a in starts:
        with torch.no_grad():
            window = torch.tensor([[ids[0], *ids[1 + a : 1 + a + 62], ids[-1]]])
            p = torch.softmax(model(window).logits[0, 1:-1].double(), -1)
        for t in range(a, a + 62):
            seen = min(t - a if a else count, a + 61 - t if a + 62 < count else count)
            score, label = p[t - a].max(0)
            best[t] = max(best[t], (seen, TAGS[label], float(score)), key=lambda b: b[0])
    want = [(label, *place, score) for (_, label, score), place in zip(
        best, encoded["offset_mapping"][1:-1], strict=True) if label != "O"]  # fmt: skip
    got = compiled.predict(text, aggregate="none")
    cover = [(e.label, e.start, e.end) for e in got]
    if kind == "WordPiece":  # tokens of the others may be blank, or begin with one
        assert cover == [w[:3] for w in want]
        assert_close([e.score for e in got], [w[3] for w in want], tolerance=SHALLOW)
    assert max(e.end for e in got) > len(text) - 20 and all(
        e.text == text[e.start : e.end] == e.text.strip() for e in got
    )
    assert compiled.predict([TEXT, text, TEXT], aggregate="none") == [
        compiled.predict(TEXT, aggregate="none"), got, compiled.predict(TEXT, aggregate="none")
    ]  # fmt: skip
    assert compiled.prepare(text, truncate=True).cut == len(ids)


def test_windows_of_any_size_join_to_the_whole() -> None:
    """Rows that say where they come from; contexts are at least half of what windows share."""
    for count, limit in ((65, 64), (200, 64), (1000, 512), (9, 4), (5, 3)):
        whole = SimpleNamespace(
            ids=[-1, *range(count), -2], type_ids=[0] * (count + 2),
            special_tokens_mask=[1, *[0] * count, 1],
        )  # fmt: skip
        windows = cut_windows(whole, limit)
        assert all(len(w.ids) == limit and w.ids[0] == -1 and w.ids[-1] == -2 for w in windows)
        rows = [np.stack([w.ids, np.full(limit, i)], -1) for i, w in enumerate(windows)]
        out = joined(whole, windows, rows)
        assert out[:, 0].tolist() == whole.ids
        least = min(128, (limit - 2) // 2) // 2 - 1
        for token, window in out[1:-1].tolist():
            w = windows[window]
            assert w.start <= token < w.stop
            assert w.start == 0 or token - w.start >= least
            assert w.stop == count or w.stop - 1 - token >= least
    with pytest.raises(canao.InputError, match="takes 2 tokens, which leaves none"):
        cut_windows(whole, 2)


def test_labels_that_are_left_out(make: Make) -> None:
    made = make("ForTokenClassification", id2label=dict(enumerate(TAGS)),
                label2id={tag: i for i, tag in enumerate(TAGS)})  # fmt: skip
    found = 0
    for ignored in ([], ["O", "PER"], ["B-LOC"], ["LOC", "PER"]):
        for text in tokens.SENTENCES:
            want = pipeline("token-classification", made, aggregation_strategy="simple",
                            ignore_labels=ignored)(text)  # fmt: skip
            got = made[0].predict(text, aggregate="simple", ignore_labels=ignored)
            assert [(e.label, e.start) for e in got] == [
                (w["entity_group"], w["start"]) for w in want
            ]
            found += len(got)
    assert found > 20
    with pytest.raises(canao.InputError, match="give a list"):
        made[0].predict(TEXT, ignore_labels="O")


def test_thresholds(make: Make) -> None:
    made = make("ForSequenceClassification", num_labels=3,
                problem_type="multi_label_classification")[0]  # fmt: skip
    plain = made.predict(TEXT)
    middle = plain.scores[1][1]
    assert plain.chosen == tuple(name for name, score in plain.scores if score >= 0.5)
    for threshold, count in ((0.0, 3), (middle, 2), (middle + 1e-9, 1), (1.0, 0)):
        got = made.predict(TEXT, threshold=threshold)
        assert got.scores == plain.scores and len(got.chosen) == count
        assert got.to_dict()["chosen"] == [name for name, _ in plain.scores[:count]]
    assert made.predict(TEXT, threshold=0.0, top=1).chosen == tuple(n for n, _ in plain.scores)
    with pytest.raises(canao.InputError, match=r"threshold is 1\.5; give 0 to 1"):
        made.predict(TEXT, threshold=1.5)
    single = make("ForSequenceClassification", num_labels=3)[0]
    assert single.predict(TEXT).chosen is None and set(single.predict(TEXT).to_dict()) == {"labels"}
    assert single.predict(TEXT, threshold=0.99).chosen == ()


@pytest.mark.parametrize(
    ("manifest", "score"),
    [
        ({}, "sigmoid"),
        ({"problem_type": "single_label_classification"}, "sigmoid"),
        ({"problem_type": "regression"}, "identity"),
        ({"activation": "identity"}, "identity"),
        ({"activation": "tanh"}, "tanh"),
        ({"activation": "exp"}, "exp"),
    ],
)
def test_a_single_output_is_no_certainty(manifest: dict[str, str], score: str) -> None:
    x = -1.25
    made = {"sigmoid": 1 / (1 + np.exp(-x)), "identity": x, "tanh": np.tanh(x), "exp": np.exp(x)}
    got = classify(np.array([[x]], np.float32), {"labels": ["yes"], **manifest}, None)
    assert got.scores == (("yes", pytest.approx(made[score])),)
    assert regress(np.array([x], np.float32), {"activation": "tanh"}).score == np.tanh(x)
    with pytest.raises(canao.InputError, match=r"'cube' is none of .*softmax, sigmoid"):
        classify(np.zeros(1), {"labels": ["yes"], "activation": "cube"}, None)


def test_answers(make: Make) -> None:
    """Every span of at most 15 tokens of the context, scored one by one; and that there is none."""
    compiled, model, tokenizer = make("ForQuestionAnswering")
    question = "Where was Ada born?"
    encoded = tokenizer(question, CONTEXT, return_tensors="pt", return_offsets_mapping=True)
    offsets = encoded.pop("offset_mapping")[0].tolist()
    with torch.no_grad():
        out = model(**encoded)
    inside = [i for i, s in enumerate(encoded.sequence_ids(0)) if s == 1]
    start, end = (torch.softmax(x[0, [*inside, 0]].double(), 0) for x in out.values())
    words = [encoded.word_ids(0)[i] for i in inside]
    scores: dict[tuple[int, int], float] = {}
    for i in range(len(inside)):
        for j in range(i, min(i + 15, len(inside))):
            first = words.index(words[i])
            last = len(words) - 1 - words[::-1].index(words[j])
            span = offsets[inside[first]][0], offsets[inside[last]][1]
            scores[span] = max(scores.get(span, 0.0), float(start[i] * end[j]))
    best = sorted(scores.items(), key=lambda item: -item[1])[:3]
    got = compiled.predict(question, context=CONTEXT, top=3)
    assert [(a.start, a.end) for a in got] == [span for span, _ in best]
    assert [a.score for a in got] == pytest.approx([s for _, s in best], abs=SHALLOW)
    assert all(a.text == CONTEXT[a.start : a.end] for a in got)
    (null,) = {a.null_score for a in got}
    assert null == pytest.approx(float(start[-1] * end[-1]), abs=SHALLOW)
    short = compiled.predict(question, CONTEXT, max_answer_tokens=1)[0]
    assert len(short.text.split()) == 1


@pytest.mark.parametrize("kind", sorted(tokens.KINDS))
def test_answers_in_a_long_context(make: Make, kind: str) -> None:
    """A context of several windows: the whole of it is read, and spans are of the whole."""
    model = make("ForQuestionAnswering", kind)[0]
    context = " ".join(tokens.SENTENCES * 3)
    ready = model.prepare("Where?", context)
    assert len(ready.windows) > 2 and not ready.cut
    assert all(len(w.ids) <= LONGEST for w in ready.windows)
    ends = [w.offsets[i] for w in ready.windows for i, s in enumerate(w.sequence_ids) if s == 1]
    covered = {c for start, end in ends for c in range(start, end)}
    assert all(i in covered or context[i].isspace() for i in range(len(context)))
    found = model.predict("Where?", context, top=20)
    assert len(found) == 20 and len({(a.start, a.end) for a in found}) == 20
    assert all(a.text == context[a.start : a.end].strip() != "" for a in found)
    assert 0 < sum(a.score for a in found) <= 1
    with pytest.raises(canao.InputError, match="question alone fills the 64"):
        model.predict(context, "London")


def by_protocol(
    model: Any, question: str, context: str, margin: float
) -> tuple[str | None, float]:
    """SQuAD 2 as its evaluation script and run_qa.py of Transformers have it: the best answer, ""
    where the null score wins, and by how much it does. In logits, and with other code."""
    prepared = model.prepare(question, context)
    null, best = math.inf, (-math.inf, "")
    for window in prepared.windows:
        run = model.run(*(np.array(x) for x in (window.ids, window.type_ids)))
        start, end = run["start_logits"].ravel(), run["end_logits"].ravel()
        null = min(null, float(start[0] + end[0]))
        inside = [i for i, side in enumerate(window.sequence_ids) if side == 1]
        for i in inside:
            for j in range(i, min(i + 15, inside[-1] + 1)):
                first = window.word_to_chars(window.token_to_word(i), 1)[0]
                last = window.word_to_chars(window.token_to_word(j), 1)[1]
                best = max(best, (float(start[i] + end[j]), context[first:last]))
    return ("" if null - best[0] > margin else best[1]), null - best[0]


@pytest.mark.parametrize("sentences", (1, 12))
def test_no_answer(make: Make, sentences: int) -> None:
    model = make("ForQuestionAnswering")[0]
    context = " ".join((tokens.SENTENCES * 3)[:sentences])
    assert (len(model.prepare("Where?", context).windows) > 3) == (sentences > 1)
    said = set()
    for question in ("Where?", "Who was Ada?", "What does grandma know of engines?"):
        _, difference = by_protocol(model, question, context, 0.0)
        for margin in (difference - 0.01, difference + 0.01, 0.0, -1e9, 1e9):
            want, _ = by_protocol(model, question, context, margin)
            got = model.predict(question, context, null_threshold=margin)
            assert [a.text for a in got] == [want]
            said.add(want == "")
        plain = model.predict(question, context, top=2)
        assert "" not in [a.text for a in plain]
        assert math.log(plain[0].null_score / plain[0].score) == pytest.approx(difference, abs=1e-3)
        ranked = model.predict(question, context, null_threshold=0.0, top=3)
        assert [a.text for a in ranked].count("") <= 1 and len(ranked) == 3
        scores = [a.score for a in ranked]
        assert scores == sorted(scores, reverse=True)
        empty = next((a for a in ranked if not a.text), None)
        assert empty is None or (empty.start, empty.end, empty.score) == (0, 0, empty.null_score)
    assert said == {True, False}


@pytest.mark.parametrize("kind", sorted(tokens.KINDS))
def test_masks(make: Make, kind: str) -> None:
    made = make("ForMaskedLM", kind)
    mask = made[2].mask_token
    text = f"Ada was born in {mask}."
    want = pipeline("fill-mask", made)(text, top_k=4)
    (got,) = made[0].predict(text, top=4)
    assert [f.token_id for f in got] == [w["token"] for w in want]
    assert [f.score for f in got] == pytest.approx([w["score"] for w in want], abs=SHALLOW)
    assert [f.token for f in got] == [w["token_str"].strip() for w in want]
    assert [f.text for f in got] == [w["sequence"] for w in want]
    assert len(made[0].predict(f"{mask} was born in {mask}.")) == 2
    with pytest.raises(canao.InputError, match=re.escape(f"no {mask}")):
        made[0].predict("Ada was born.")


def test_feature_extraction(make: Make) -> None:
    made = make("Model")
    want = np.array(pipeline("feature-extraction", made)(TEXT))[0]
    assert_close(made[0].predict(TEXT), want)
    pooled = made[0].predict(TEXT, pooling="mean", normalize=True)
    mean = want.mean(0)
    assert_close(pooled, mean / np.linalg.norm(mean))


@pytest.mark.parametrize("kind", sorted(tokens.KINDS))
def test_ids_are_the_tokenizers(make: Make, kind: str) -> None:
    model, _, tokenizer = make("ForMaskedLM", kind)
    for text in (*tokens.SENTENCES, "  odd\tblanks  ", "\U0001f600 漢字"):
        for pair in (None, CONTEXT):
            want = tokenizer(text, pair, truncation=True)
            ids, types = model.encode(text, pair)
            assert ids.tolist() == want["input_ids"]
            assert types.tolist() == want["token_type_ids"]
    assert model.artifact.manifest["tokenizer"]["kind"] == kind


def test_type_ids_only_where_there_are_types(tmp_path: Path) -> None:
    """A model of one type gets zeros, whatever the tokenizer says of the second text."""
    model, tokenizer = save_model("ForSequenceClassification", tmp_path, type_vocab_size=1)
    encoded = tokenizer(TEXT, CONTEXT, return_tensors="pt")
    encoded["token_type_ids"].zero_()
    with torch.no_grad():
        want = torch.softmax(model(**encoded).logits[0], 0).tolist()
    got = dict(canao.compile(tmp_path).predict(TEXT, CONTEXT).scores)
    assert [got["LABEL_0"], got["LABEL_1"]] == pytest.approx(want, abs=SHALLOW)


def test_what_is_refused(make: Make) -> None:
    model = make("ForSequenceClassification", num_labels=3)[0]
    for arguments, options, words in (
        (("",), {}, "empty"),
        (("a", " "), {}, "second text is empty"),
        ((5,), {}, "text is int"),
        ((["a", 5],), {}, "text 1: the text is int"),
        ((["a", ""],), {}, "text 1: .*empty"),
        ((["a"], ["b", "c"]), {}, "1 texts and 2 second"),
        (("a", ["b"]), {}, "several second"),
        (("a", "b"), {"context": "c"}, "both"),
        (("a",), {"aggregate": "first"}, "aggregate is no option of text-classification.*top"),
        (("a",), {"top": 0}, "top is 0"),
        (("\udcff",), {}, "UTF-8"),
        (("seven " * 99,), {}, r"has \d+ tokens, the model takes 64.*--truncate"),
    ):
        with pytest.raises(canao.InputError, match=words):
            model.predict(*arguments, **options)
    assert model.predict("seven " * 99, truncate=True).label.startswith("LABEL_")
    assert len(model.encode("seven " * 99)[0]) == LONGEST
    tags = make("ForTokenClassification", id2label=dict(enumerate(TAGS)),
                label2id={tag: i for i, tag in enumerate(TAGS)})[0]  # fmt: skip
    with pytest.raises(canao.InputError, match="one text, not a pair"):
        tags.predict("a", "b")
    with pytest.raises(canao.InputError, match=r"'last'.*word, first, average"):
        tags.predict("a", aggregate="last")
    with pytest.raises(canao.InputError, match="--context"):
        make("ForQuestionAnswering")[0].predict("Where?")


def test_labels_that_do_not_fit(tmp_path: Path) -> None:
    compiled = canao.compile(save_model("ForSequenceClassification", tmp_path)[0], tmp_path / "out")
    compiled.close()
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["tokenizer"] is None
    manifest["labels"] = ["one"]
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(sealed(manifest)))
    with pytest.raises(canao.InputError, match="no tokenizer"):
        canao.load(tmp_path / "out").predict("a")
    tokens.save(tokens.wordpiece(), tmp_path / "out")
    manifest["files"]["tokenizer.json"] = file_digest(tmp_path / "out" / "tokenizer.json")
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(sealed(manifest)))
    with pytest.raises(canao.InputError, match="1 labels and the model has 2"):
        canao.load(tmp_path / "out").predict("a")


@pytest.mark.parametrize("kind", ("WordPiece", "BPE"))
def test_older_tokenizers_are_converted(tmp_path: Path, kind: str) -> None:
    config = transformers.BertConfig() if kind == "WordPiece" else transformers.RobertaConfig()
    config.save_pretrained(tmp_path)
    trained = tokens.KINDS[kind]()
    trained.model.save(str(tmp_path))
    assert describe_tokenizer(tmp_path)["kind"] == kind
    found = read_tokenizer(tmp_path)
    converted = Tokenizer.from_str(found.contents["tokenizer.json"].decode())
    for text in tokens.SENTENCES[:3]:
        assert converted.encode(text, "Ada").tokens == trained.encode(text, "Ada").tokens
    assert found.description["kind"] == kind and found.ids == trained.get_vocab_size()
    assert found.description["mask"] == ("[MASK]" if kind == "WordPiece" else "<mask>")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("spiece.model", b"\x00not a model"),
        ("vocab.txt", b"\xff\xfe\x00\x01"),
        ("vocab.txt", b""),
        ("tokenizer.json", b""),
        ("tokenizer.json", b"{"),
        ("tokenizer.json", b"[]"),
        ("tokenizer.json", b'{"model": 5}'),
        ("tokenizer.json", b'{"model": {"type": "BPE", "vocab": {"a": "b"}}}'),
        ("tokenizer.json", b'{"model": {"vocab": {"a": []}}, "added_tokens": 7}'),
    ],
)
def test_a_tokenizer_that_cannot_be_read_is_found_first(
    name: str, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line, before weights are loaded and long before anything is built."""
    save_model("Model", tmp_path)
    for old in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / old).unlink()
    (tmp_path / name).write_bytes(content)
    monkeypatch.setattr("canao.compiler.pipeline.load_model",
                        lambda *_: pytest.fail("the model was loaded"))  # fmt: skip
    with pytest.raises(canao.InputError, match=re.escape(f"{tmp_path}/{name}: ")) as error:
        canao.compile(tmp_path)
    assert "\n" not in str(error.value) and ";" in str(error.value)


def test_a_tokenizer_of_another_model(tmp_path: Path) -> None:
    save_model("Model", tmp_path)
    whole = fast_tokenizer("WordPiece")
    whole.add_tokens(["one more"])  # known to the tokenizer only: texts do not hold it by chance
    whole.save_pretrained(tmp_path)
    assert read_tokenizer(tmp_path).ids < len(whole)
    canao.compile(tmp_path)
    tokens.save(tokens.byte_bpe(), tmp_path)
    with pytest.raises(canao.InputError, match=r"tokenizer has \d+ tokens, .* vectors for \d+"):
        canao.compile(tmp_path)

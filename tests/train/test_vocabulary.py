"""Vocabulary pruning: what is kept of a tokenizer, and students that have nothing else."""

from __future__ import annotations

import json
import random
import shutil
import string
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_trainer import OPTIONS, SMALL, Watch
from tiny_bert import GOOD, save_masked, save_tiny, write_task
from tokenizers import Tokenizer, models
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

import canao
from canao.device.null import NullDevice
from canao.errors import InputError
from canao.inference.compiled_model import CompiledModel
from canao.model import hf
from canao.model.tokenizing.corpus import PAIRS, TEXTS
from canao.model.tokenizing.prune import needed, pruned
from canao.report.write import write_report
from canao.train.data import Example, TextData, load_data
from canao.train.inheritance.vocabulary import Vocabulary
from canao.train.options import LEAST_TOKENS, TrainOptions
from canao.train.trainer import Trainer
from tests import text_tokenizers, tokens

USED = tuple(Example(text, None, 0) for text in (*tokens.SENTENCES[:2], "Zürich, a café?"))
CLASSES = ("BertTokenizer", "ElectraTokenizer", "RobertaTokenizer", "PreTrainedTokenizerFast",
           "XLMRobertaTokenizer", "AlbertTokenizer")  # fmt: skip
# Tokens with which every word can be spelt (the teacher has "a"), and some that no text has.
SPELLING = (*string.ascii_lowercase[1:], *(f"##{c}" for c in string.ascii_lowercase))
UNSEEN = ("movie", "##ie", "worse", "dull", "boredom")


def opened(folder: Path, name: str, **settings: Any) -> Any:
    return hf.load_tokenizer(text_tokenizers.save(folder, name, **settings))


def of(folder: Path, tokenizer: Any, used: tuple[Example, ...] = USED) -> Vocabulary:
    held = json.loads((folder / "config.json").read_text())
    config = AutoConfig.for_model(
        held["model_type"], vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return Vocabulary.of(folder, tokenizer, config, used)


@pytest.mark.parametrize("name", CLASSES)
def test_a_part_of_a_vocabulary_reads_every_text(name: str, tmp_path: Path) -> None:
    """Those that it was made of as before, and no other one with more unknown tokens; saved and
    loaded by Transformers as any tokenizer."""
    before = opened(tmp_path / "t", name)
    own = of(tmp_path / "t", before)
    assert own.sizes is not None and own.rows is not None
    assert own.sizes[0] < own.sizes[1] - 10 == len(before) - 10
    own.tokenizer.save_pretrained(tmp_path / "s")
    shutil.copy(tmp_path / "t" / "config.json", tmp_path / "s")
    after = AutoTokenizer.from_pretrained(tmp_path / "s", local_files_only=True)
    assert type(after) is type(before) and len(after) == len(own.rows)
    assert sorted(after.get_vocab().values()) == list(range(len(after)))
    for example in USED:
        ids = after(example.text)["input_ids"]
        assert own.rows[ids].tolist() == before(example.text)["input_ids"]
    for text, pair in (*((text, None) for text in (*TEXTS, *tokens.SENTENCES)), *PAIRS):
        old, new = (t(text, pair)["input_ids"] for t in (before, after))
        assert new.count(after.unk_token_id) <= old.count(before.unk_token_id), text
        special = set(before.all_special_ids)
        assert [i for i in old if i in special] == [i for i in own.rows[new] if i in special]
        if before.unk_token_id not in old:
            said = [t.decode(i, skip_special_tokens=True) for t, i in ((before, old), (after, new))]
            assert said[0] == said[1]
    for special_token in before.all_special_tokens:
        there = after.convert_tokens_to_ids(special_token)
        assert own.rows[there] == before.convert_tokens_to_ids(special_token)
    assert after.pad_token_id == before.pad_token_id  # positions may count from it
    kept = {text for text in before.get_vocab() if text in after.get_vocab()}
    assert len(kept) == len(after)


@pytest.mark.parametrize("name", ["BertTokenizer", "RobertaTokenizer", "XLMRobertaTokenizer"])
def test_random_texts(name: str, tmp_path: Path) -> None:
    """Of pieces of tokens, of which some are strange: half of them are what is kept for, and are
    cut as before; of the others no more is unknown."""
    before, pick = opened(tmp_path / "t", name), random.Random(7)
    texts = [text.strip("#\u0120\u2581") for text in before.get_vocab()]
    pieces = [text for text in texts if text.isalpha()] + [*"a.!\u00e9\u6771#\u0301 ", "x" * 120]

    def text() -> str:
        return "".join(pick.choice(pieces) + pick.choice(("", "", " ")) for _ in range(12))

    for _ in range(3):
        used, others = ([text() for _ in range(count)] for count in (6, 60))
        own = of(tmp_path / "t", before, tuple(Example(t, None, 0) for t in used))
        assert own.rows is not None and len(own.rows) < len(before)
        for one in used:
            assert own.rows[own.tokenizer(one)["input_ids"]].tolist() == before(one)["input_ids"]
        for one in others:
            old, new = (t(one)["input_ids"] for t in (before, own.tokenizer))
            assert new.count(own.tokenizer.unk_token_id) == old.count(before.unk_token_id), one


def test_more_texts_keep_more_tokens(tmp_path: Path) -> None:
    tokenizer = opened(tmp_path / "t", "BertTokenizer")
    few = of(tmp_path / "t", tokenizer)
    texts = tuple(Example(text, None, 0) for text in tokens.SENTENCES)
    all_of_them = of(tmp_path / "t", tokenizer, texts)
    assert few.rows is not None and all_of_them.rows is not None
    assert set(few.rows) < set(all_of_them.rows) and few.facts != all_of_them.facts


def test_the_commonest_tokens_fill_up(tmp_path: Path) -> None:
    """Those with the lowest ids beside what is kept anyhow, marks that are never read apart."""
    vocabulary = {t: i for i, t in enumerate(("[unused0]", "a", "##a", "aa", "##aa", "aaa"))}
    form = {"model": {"type": "WordPiece", "vocab": vocabulary},
            "pre_tokenizer": {"type": "BertPreTokenizer"}}  # fmt: skip
    assert needed("here", form, {5}) == needed("here", form, {5}, 3) == (1, 2, 5)
    assert needed("here", form, {5}, 4) == (1, 2, 3, 5)
    assert needed("here", form, {5}, 99) == (1, 2, 3, 4, 5)
    tokenizer = opened(tmp_path / "t", "RobertaTokenizer")
    few = of(tmp_path / "t", tokenizer)
    config = AutoConfig.for_model("roberta", vocab_size=len(tokenizer), pad_token_id=1)
    more = Vocabulary.of(tmp_path / "t", tokenizer, config, USED, len(tokenizer) - 5)
    assert few.rows is not None and more.rows is not None and set(few.rows) < set(more.rows)
    assert len(tokenizer) - 5 <= len(more.rows) < len(tokenizer)


def test_ids_in_settings_and_templates_are_renamed() -> None:
    """Of an added token between the others, of templates, of the padding."""
    words = {w: i for i, w in enumerate(("a", "[X]", "b", "##a", "##b", "ab", "[CLS]", "abab"))}
    form = {
        "model": {"type": "WordPiece", "vocab": words, "unk_token": "[X]"},
        "added_tokens": [{"id": 1, "content": "[X]"}, {"id": 6, "content": "[CLS]"},
                         {"id": 8, "content": "<new>"}],
        "post_processor": {"type": "Sequence", "processors": [
            {"type": "BertProcessing", "sep": ["b", 2], "cls": ["[CLS]", 6]},
            {"type": "TemplateProcessing", "special_tokens": {
                "[CLS]": {"id": "[CLS]", "ids": [6], "tokens": ["[CLS]"]}}},
        ]},
        "padding": {"pad_id": 6, "pad_token": "[CLS]"},
    }  # fmt: skip
    kept = needed("here", form, {0})
    assert kept == (0, 1, 2, 3, 4, 6, 8)
    made = pruned(form, kept)
    assert made["model"]["vocab"] == {"a": 0, "[X]": 1, "b": 2, "##a": 3, "##b": 4, "[CLS]": 5}
    assert [token["id"] for token in made["added_tokens"]] == [1, 5, 6]
    bert, template = made["post_processor"]["processors"]
    assert (bert["sep"], bert["cls"]) == (["b", 2], ["[CLS]", 5])
    assert template["special_tokens"]["[CLS]"]["ids"] == [5]
    assert made["padding"]["pad_id"] == 5 and form["padding"]["pad_id"] == 6


def test_merges_on_the_way_to_a_token_are_kept() -> None:
    vocabulary = ["a", "b", "c", "d", "ab", "cd", "abcd", "bc", "da"]
    merges = [["a", "b"], ["c", "d"], ["ab", "cd"], ["b", "c"], ["d", "a"]]
    form = {"model": {"type": "BPE", "vocab": {t: i for i, t in enumerate(vocabulary)},
                      "merges": merges}}  # fmt: skip
    kept = needed("here", form, {6})
    assert kept == tuple(range(7))
    assert pruned(form, kept)["model"]["merges"] == merges[:3]
    old = {"model": {**form["model"], "merges": [" ".join(pair) for pair in merges]}}
    assert needed("here", old, {6}) == kept
    assert pruned(old, kept)["model"]["merges"] == merges[:3]


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"type": "WordLevel", "vocab": {"a": 0}}, "of the kind WordLevel is not pruned"),
        ({"type": "WordPiece", "vocab": {"ab": 0, "a": 1}}, "has the token 'ab' and not '##b', so"),
        ({"type": "WordPiece", "vocab": {"##ab": 0, "##a": 1}}, "'##ab' and not '##b'"),
        ({"type": "Unigram", "vocab": [["ab", 0.0], ["a", 0.0]]}, "'ab' and not 'b'"),
        ({"type": "Unigram", "vocab": [["a", 0.0], ["a", 0.0]]}, "the same text or the same id"),
        ({"type": "WordPiece", "vocab": {"a": 0, "b": 0}}, "the same text or the same id"),
        ({"type": "BPE", "vocab": {"a": 0}, "merges": [], "end_of_word_suffix": "</w>"},
         "BPE tokenizer with a end_of_word_suffix of '</w>' is not pruned"),
    ],
)  # fmt: skip
def test_what_cannot_be_pruned_is_refused(model: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as raised:
        needed("here", {"model": model}, ())
    assert "\n" not in str(raised.value) and "leave out --prune-vocabulary" in str(raised.value)


def test_marks_inside_of_tokens_are_no_part_of_words() -> None:
    """BERT's splitter cuts at them: '[unused1]' is never read, and no word needs a '##]'."""
    vocabulary = {"a": 0, "[unused1]": 1, "##a": 2, "a-b": 3}
    form = {"model": {"type": "WordPiece", "vocab": vocabulary},
            "pre_tokenizer": {"type": "BertPreTokenizer"}}  # fmt: skip
    assert needed("here", form, ()) == (0, 2)
    with pytest.raises(InputError, match="unused1"):
        needed("here", {"model": form["model"]}, ())


def test_a_tokenizer_that_does_not_cut_as_before_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one would be of which a token was left out that texts use."""
    tokenizer = opened(tmp_path / "t", "BertTokenizer")
    monkeypatch.setattr(
        "canao.train.inheritance.vocabulary.needed",
        lambda place, form, used, least: needed(place, form, ()),
    )
    with pytest.raises(InputError, match="cannot be pruned: it cuts texts otherwise"):
        of(tmp_path / "t", tokenizer)


def test_a_tokenizer_of_words_alone(tiny: Path, task: TextData, tmp_path: Path) -> None:
    """Said before anything is trained."""
    with pytest.raises(InputError, match=r"has the token 'good' and not 'g'"):
        Trainer(tiny, task, tmp_path, replace(OPTIONS, prune_vocabulary=True), Watch())
    word_level = Tokenizer(models.WordLevel({"[UNK]": 0, "[PAD]": 1, "a": 2}, unk_token="[UNK]"))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=word_level, pad_token="[PAD]", unk_token="[UNK]"
    )
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(InputError, match="WordLevel"):
        of(tmp_path, tokenizer)


# Students


@pytest.fixture(scope="module")
def speller(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher that can spell every word."""
    return save_tiny(tmp_path_factory.mktemp("speller"), (*UNSEEN, *SPELLING))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TextData:
    """Two texts of its development set have words that no training text has."""
    found = load_data(write_task(tmp_path_factory.mktemp("data"), train=160, dev=30))
    more = (Example("a good movie", None, 1), Example("worse plot and a dull movie", None, 0))
    return replace(found, dev=(*found.dev, *more))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


ASKED = replace(OPTIONS, prune_vocabulary=True, vocabulary=0, teacher_epochs=4, final_epochs=2)
WHOLE: dict[str, Any] = {"prune_vocabulary": False, "vocabulary": LEAST_TOKENS}


@pytest.fixture
def trainer(speller: Path, data: TextData, work: Path) -> Trainer:
    return Trainer(speller, data, work, ASKED, Watch())


def test_students_have_the_rows_that_they_need(trainer: Trainer) -> None:
    kept, before = trainer.vocabulary() or (0, 0)
    assert before - kept == len(UNSEEN) and before == len(trainer.texts.tokenizer)
    said = (f"vocabulary: students keep {kept} of the teacher's {before} tokens; 2 of the 32 "
            "development texts have others, which are cut into pieces")  # fmt: skip
    assert trainer.told() == (said,)
    teacher = hf.load_classifier(trainer.teacher().model_dir, trainer.data.labels)
    assert teacher.config.vocab_size == before
    folder = trainer.skeleton(trainer.teacher_arch())
    student = hf.load_classifier(folder, trainer.data.labels)
    mine, theirs = (hf.parts_of(m).words.weight for m in (student, teacher))
    assert trainer.texts.own.rows is not None
    assert torch.equal(mine, theirs[trainer.texts.own.rows.tolist()])
    assert student.config.vocab_size == len(mine) == kept
    blank = trainer.blank(SMALL)
    assert hf.parts_of(blank).words.num_embeddings == blank.config.vocab_size == kept
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    assert tokenizer.tokenize("a good movie") == ["a", "good", "m", "##o", "##v", "##i", "##e"]
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    assert not any(isinstance(v, str) and "/" in v for v in settings.values())


def test_scores_are_those_of_the_pruned_tokenizer(trainer: Trainer, data: TextData) -> None:
    """Plain Transformers on the student's directory comes to the same."""
    student = trainer.finish(SMALL)
    model = AutoModelForSequenceClassification.from_pretrained(
        student.model_dir, local_files_only=True
    )
    tokenizer = AutoTokenizer.from_pretrained(student.model_dir, local_files_only=True)
    right = 0
    for example in data.dev:
        ids = tokenizer(example.text, return_tensors="pt")
        assert int(ids["input_ids"].max()) < model.config.vocab_size
        with torch.no_grad():
            right += int(model(**ids).logits.argmax()) == example.label
    assert right / len(data.dev) == pytest.approx(student.score.metrics["accuracy"])
    own, theirs = trainer.texts.encode(data.dev, own=True), trainer.texts.encode(data.dev)
    same = [np.array_equal(*pair) for pair in zip(own.ids, theirs.ids, strict=True)]
    assert same == [True] * 30 + [False] * 2 and own.pad == theirs.pad
    assert trainer.finish(SMALL) == student and trainer.teacher().score


def test_results_with_all_rows_are_not_taken_for_them(
    trainer: Trainer, speller: Path, data: TextData, work: Path
) -> None:
    trainer.proxy_score(SMALL)
    trainer.skeleton(SMALL)
    watch = Watch()
    whole = Trainer(speller, data, work, replace(ASKED, **WHOLE), watch)
    assert whole.told() == () and whole.vocabulary() is None
    assert whole._key == trainer._key
    whole.proxy_score(SMALL)
    assert watch.steps[f"proxy score {SMALL}"] and not watch.steps["teacher"]
    assert hf.load_config(whole.skeleton(SMALL)).vocab_size == len(whole.texts.tokenizer)
    kept, _ = trainer.vocabulary() or (0, 0)
    assert hf.load_config(trainer.skeleton(SMALL)).vocab_size == kept


def test_words_of_unlabelled_texts_are_kept(speller: Path, data: TextData, tmp_path: Path) -> None:
    texts = (Example("a dull movie", None, data.no_label),)
    found = Trainer(speller, data, tmp_path, ASKED, Watch(), unlabelled=texts)
    kept, before = found.vocabulary() or (0, 0)
    assert before - kept == len(UNSEEN) - 2
    assert found._final_set().ids[-1].tolist() == found.texts.tokenizer("a dull movie")["input_ids"]


@pytest.mark.parametrize("masked", [False, True])
def test_copies_are_made_of_kept_words(
    masked: bool, speller: Path, data: TextData, tmp_path: Path
) -> None:
    """Those of neighbours and those of a masked model, whose tokenizer knows all of them."""
    few = replace(data, train=data.train[:24])
    options = replace(ASKED, augment=3)
    if masked:
        model = save_masked(tmp_path / "m", speller, vocab_size=25 + len(UNSEEN) + len(SPELLING))
        options = replace(options, augment_model=str(model))
    trainer = Trainer(speller, few, tmp_path / "work", options, Watch())
    copies = trainer._final_set().ids[24:]
    assert len(copies) > 24 and trainer.texts.own.rows is not None
    known = set(trainer.texts.own.rows.tolist())
    assert {int(i) for ids in copies for i in ids} <= known
    whole = Trainer(speller, few, tmp_path / "work", replace(options, **WHOLE), Watch())
    others = {int(i) for ids in whole._final_set().ids[24:] for i in ids}
    assert not others <= known, "without pruning, no word was used that is dropped"


def test_a_search_with_a_pruned_vocabulary(speller: Path, tmp_path: Path) -> None:
    """To a library that runs; result, page and summary say what was kept."""
    device = NullDevice(lambda artifact: 0.01)
    found = canao.search(
        teacher=speller, data=write_task(tmp_path / "task", train=160), budget_ms=0.21,
        run_dir=tmp_path / "run", device=device, trials=1, quick_steps=2, epochs=1,
        teacher_epochs=2, teacher_lr=2e-3, length=16, prune_vocabulary=True, vocabulary=0,
    )  # fmt: skip
    held = found.vocabulary
    assert held is not None and held.before - held.kept == len(UNSEEN)
    assert held.saved_bytes == 4 * len(UNSEEN) * found.arch.hidden
    page = write_report(tmp_path / "run").read_text()
    assert f"Of the {held.before:,} rows" in page and f"students keep {held.kept:,} of" in page
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["vocabulary"]["kept"] == held.kept
    tokenizer = AutoTokenizer.from_pretrained(found.model_dir, local_files_only=True)
    model = AutoModelForSequenceClassification.from_pretrained(found.model_dir).eval()
    with CompiledModel(found.artifact) as compiled, torch.no_grad():
        for text in ("a good movie", f"{GOOD[0]} plot", "xyz"):
            ids = tokenizer(text, return_tensors="pt")
            want = int(model(**ids).logits.argmax())
            assert compiled.predict([text])[0].label == model.config.id2label[want]




@pytest.mark.parametrize(
    "options", [{"vocabulary": 5}, {"prune_vocabulary": True, "vocabulary": -1}]
)
def test_a_least_number_of_tokens_is_of_pruned_vocabularies(options: dict[str, int]) -> None:
    assert TrainOptions(prune_vocabulary=True).vocabulary == LEAST_TOKENS
    with pytest.raises(InputError, match=r"vocabulary is -?[15]; give how many tokens"):
        replace(OPTIONS, **options)

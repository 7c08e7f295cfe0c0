"""A directory's tokenizer: ids as Transformers makes them, or a refusal that names the entry."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from base64 import b64encode
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizers import Tokenizer

import canao
from canao.errors import CanaoError, InputError, UnsupportedError
from canao.inference.tasks import Reader
from canao.model.inventory.inventory import Inventory
from canao.model.inventory.table import INERT, USED
from canao.model.tokenizing.files import describe_tokenizer
from canao.model.tokenizing.tokenizer import read_tokenizer
from canao.train.data import Example
from canao.train.engine.batches import encode
from tests import tokens
from tests.heads import save_model
from tests.text_tokenizers import CLASSES, PAIRS, TEXTS, auto, patch, reader, save

CONFIG = "tokenizer_config.json"
ENT = {"content": "<ent>", "special": True, "lstrip": True, "rstrip": False, "single_word": False,
       "normalized": False}  # fmt: skip
# Settings that Transformers' classes read in different ways, or not at all.
SETTINGS: tuple[dict[str, Any], ...] = (
    {"do_lower_case": True}, {"do_lower_case": False}, {"strip_accents": True},
    {"strip_accents": False}, {"tokenize_chinese_chars": False}, {"add_prefix_space": True},
    {"add_prefix_space": False}, {"trim_offsets": False}, {"keep_accents": True},
    {"split_by_punct": True}, {"legacy": True}, {"extra_ids": 3},
    {"add_bos_token": True, "add_eos_token": True}, {"model_input_names": ["input_ids"]},
    {"model_input_names": ["input_ids", "token_type_ids"]}, {"truncation_side": "left"},
    {"model_max_length": 9}, {"split_special_tokens": True},
    {"clean_up_tokenization_spaces": True}, {"tokenizer_class": "BertTokenizer"},
    {"tokenizer_class": "RobertaTokenizerFast"}, {"tokenizer_class": "Unheard"},
    {"additional_special_tokens": ["<ent>"]}, {"extra_special_tokens": {"x_token": "<ent>"}},
    {"image_token": "<ent>"}, {"added_tokens_decoder": {"400": ENT}}, {"cls_token": "<ent>"},
    {"mask_token": {**ENT, "content": "<mask>", "__type": "AddedToken"}}, {"unk_token": "Ada"},
    {"pad_token": None}, {"eos_token": None},
)  # fmt: skip


def assert_same(folder: Path, made: Reader) -> None:
    """Ids, types and decoded text of all texts are Transformers', whole and truncated."""
    theirs = auto(folder)
    longest = min(theirs.model_max_length, made.limit)
    for text, pair in (*((text, None) for text in TEXTS), *PAIRS):
        want = theirs(text, pair, truncation=True, max_length=longest)
        ids, types = made.arrays(made.encode(text, pair)[0])
        assert ids.tolist() == want["input_ids"], text
        assert types.tolist() == want.get("token_type_ids", [0] * len(ids)), text
        assert made.tokenizer.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Path], Path]:
    """A copy of a tokenizer of a class, in a directory that the test may change."""
    root = tmp_path_factory.mktemp("tokenizers")

    def make(name: str, out: Path) -> Path:
        if not (root / name).is_dir():
            save(root / name, name)
        return Path(shutil.copytree(root / name, out / "model"))

    return make


Saved = Callable[[str, Path], Path]


@pytest.mark.parametrize("name", CLASSES)
def test_ids_are_those_of_transformers(name: str, saved: Saved, tmp_path: Path) -> None:
    folder = saved(name, tmp_path)
    assert_same(folder, reader(folder, tmp_path / "out"))


@pytest.mark.parametrize("name", ("BertTokenizer", "RobertaTokenizer", "AlbertTokenizer",
                                  "DebertaV2Tokenizer"))  # fmt: skip
def test_every_setting_means_what_it_does_there(name: str, saved: Saved, tmp_path: Path) -> None:
    """Each setting alone: the ids are Transformers', but for the few that are refused."""
    refused = []
    for i, settings in enumerate(SETTINGS):
        folder = saved(name, tmp_path / str(i))
        patch(folder / CONFIG, **settings)
        try:
            made = reader(folder, tmp_path / str(i) / "out")
        except CanaoError as error:
            refused.append(str(error))
        else:
            assert_same(folder, made)
    assert all("\n" not in line and "; " in line for line in refused)
    # Some name a class for another kind of vocabulary, or a token that the vocabulary lacks.
    assert len(refused) <= 4


@pytest.mark.parametrize("name", ("BertTokenizer", "XLMRobertaTokenizer", "GPT2Tokenizer"))
def test_tokens_that_older_files_add(name: str, saved: Saved, tmp_path: Path) -> None:
    folder = saved(name, tmp_path)
    patch(folder / "added_tokens.json", **{"<ent>": 400})
    patch(folder / "special_tokens_map.json", additional_special_tokens=["<ent>"], cls_token=ENT)
    made = reader(folder, tmp_path / "out")
    assert_same(folder, made)
    assert made.tokenizer.token_to_id("<ent>") is not None
    # Newer files say all of it again, and the older ones are left alone.
    patch(folder / CONFIG, added_tokens_decoder={})
    inventory = Inventory(folder)
    read_tokenizer(folder, inventory)
    notes = {f.file: f.status for f in inventory.findings if not f.entry}
    assert notes["added_tokens.json"] == notes["special_tokens_map.json"] == INERT
    assert_same(folder, reader(folder, tmp_path / "out"))


def test_what_the_class_leaves_alone_is_said(saved: Saved, tmp_path: Path) -> None:
    """BertTokenizer makes its own normalizer; RobertaTokenizer reads no do_lower_case."""
    status = {}
    for name in ("BertTokenizer", "RobertaTokenizer"):
        folder = saved(name, tmp_path / name)
        patch(folder / CONFIG, do_lower_case=False)
        (folder / "vocab.txt").write_text("a\nb\n")
        inventory = Inventory(folder)
        read_tokenizer(folder, inventory)
        status[name] = {f.name: f.status for f in inventory.findings}
    assert status["BertTokenizer"][f"{CONFIG}:do_lower_case"] == USED
    assert status["RobertaTokenizer"][f"{CONFIG}:do_lower_case"] == INERT
    assert status["BertTokenizer"]["tokenizer.json:normalizer"] == INERT
    assert status["BertTokenizer"]["tokenizer.json"] == USED
    assert status["BertTokenizer"]["vocab.txt"] == INERT


# Which end of a text is cut off.


@pytest.mark.parametrize("side", ("left", "right"))
@pytest.mark.parametrize("name", ("BertTokenizer", "RobertaTokenizer", "XLMRobertaTokenizer"))
def test_training_and_running_cut_the_same_end(
    name: str, side: str, saved: Saved, tmp_path: Path
) -> None:
    from canao.model.hf import load_tokenizer

    folder = saved(name, tmp_path)
    patch(folder / CONFIG, truncation_side=side, model_max_length=40)
    made = reader(folder, tmp_path / "out", max_length=12)
    theirs, trained = auto(folder), load_tokenizer(folder)
    for text, pair in ((TEXTS[0], None), (TEXTS[7], TEXTS[0]), ("Ada", TEXTS[7])):
        want = theirs(text, pair, truncation=True, max_length=12)
        ids, types = made.arrays(made.prepare(text, pair, True, {}).windows[0])
        assert ids.tolist() == want["input_ids"] and len(ids) == 12
        batch = encode(trained, [Example(text, pair, 0)], 12)
        assert batch.ids[0].tolist() == ids.tolist()
        assert batch.types[0].tolist() == types.tolist()


@pytest.mark.parametrize("side", ("left", "right"))
def test_windows_over_a_context_follow_the_side(side: str, saved: Saved, tmp_path: Path) -> None:
    folder = saved("BertTokenizer", tmp_path)
    patch(folder / CONFIG, truncation_side=side)
    made = reader(folder, tmp_path / "out", max_length=24, task="question-answering")
    question, context = "Where was Ada born?", " ".join(TEXTS[:1] * 4)
    windows = made.prepare(question, context, None, {}).windows
    shared = len(set(windows[0].offsets) & set(windows[1].offsets)) - 1
    want = auto(folder)(question, context, truncation="only_second", max_length=24, stride=3,
                        return_overflowing_tokens=True)  # fmt: skip
    assert len(windows) > 2 and shared > 0
    assert all(len(w.ids) <= 24 for w in windows)
    # The first window is the same whatever the windows share.
    assert windows[0].ids == want["input_ids"][0]


def test_the_side_may_stand_in_tokenizer_json(saved: Saved, tmp_path: Path) -> None:
    """Transformers takes it from there if tokenizer_config.json says nothing, and nothing else."""
    folder = saved("PreTrainedTokenizerFast", tmp_path)
    patch(folder / "tokenizer.json", truncation={
        "direction": "Left", "max_length": 5, "strategy": "LongestFirst", "stride": 1,
    })  # fmt: skip
    made = reader(folder, tmp_path / "out", max_length=12)
    assert made.settings.truncation_side == auto(folder).truncation_side == "left"
    assert_same(folder, made)


def test_a_length_of_its_own_is_for_truncating_only(saved: Saved, tmp_path: Path) -> None:
    """As in Transformers, a text above model_max_length is cut where that is asked for."""
    folder = saved("BertTokenizer", tmp_path)
    patch(folder / CONFIG, model_max_length=9)
    made = reader(folder, tmp_path / "out", max_length=64)
    whole = auto(folder)(TEXTS[0])["input_ids"]
    assert 9 < len(whole) <= 64
    assert made.prepare(TEXTS[0], None, None, {}).windows[0].ids == whole
    cut = made.prepare(TEXTS[0], None, True, {})
    assert (len(cut.windows[0].ids), cut.cut) == (9, len(whole))


def test_types_that_the_model_is_not_given(saved: Saved, tmp_path: Path) -> None:
    """Without token_type_ids among model_input_names, Transformers' model takes zeros."""
    from canao.model.hf import load_tokenizer

    folder = saved("BertTokenizer", tmp_path)
    example = [Example("a text", "and another", 0)]
    for names, ones in ((["input_ids", "token_type_ids"], True), (["input_ids"], False)):
        patch(folder / CONFIG, model_input_names=names)
        made = reader(folder, tmp_path / "out")
        types = made.arrays(made.encode("a text", "and another")[0])[1]
        assert bool(types.any()) == ones
        assert bool(encode(load_tokenizer(folder), example, 32).types[0].any()) == ones
        # A model that knows one type is given no other.
        assert not encode(load_tokenizer(folder), example, 32, types_known=1).types[0].any()


def test_a_compiled_classifier_and_embedder_cut_the_same_end(tmp_path: Path) -> None:
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer

    text, side = " ".join(tokens.SENTENCES[:2]), "left"
    model, tokenizer = save_model("Model", tmp_path / "model")
    patch(tmp_path / "model" / CONFIG, truncation_side=side)
    modules = [Transformer(str(tmp_path / "model"), max_seq_length=12), Pooling(48, "mean")]
    SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / "sentence"))
    theirs = SentenceTransformer(str(tmp_path / "sentence"), device="cpu")
    assert theirs.tokenizer.truncation_side == side
    for folder in ("model", "sentence"):
        canao.compile(tmp_path / folder, tmp_path / f"{folder}-out").close()
    embedded = canao.load(tmp_path / "sentence-out").predict(text)
    assert abs(embedded - theirs.encode(text)).max() < 1e-5
    ids = auto(tmp_path / "model")(text, truncation=True, max_length=64, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**ids).last_hidden_state[0].numpy()
    got = canao.load(tmp_path / "model-out").predict(text, truncate=True)
    assert abs(got - hidden).max() < 1e-5


# Every entry of every file.


def _others(value: Any) -> list[Any]:
    """Other values for an entry, some of them of another type."""
    if isinstance(value, bool):
        return [not value, "true", None]
    if isinstance(value, (int, float)):
        return [value + 1, -1, 2.5, "9"]
    if isinstance(value, str):
        return [value + "x", "left", "<ent>", "", 5, None]
    if isinstance(value, list):
        return [[], [*value, 3], [*value, "x"], {}]
    if isinstance(value, dict):
        return [{}, {**value, "odd": 1}, "x"]
    return [0, "x", {}]


def _mutations(folder: Path, files: tuple[str, ...]) -> list[tuple[str, str, Any]]:
    """(file, entry, new value or ... to take it out) for settings files of a directory."""
    found: list[tuple[str, str, Any]] = []
    for name in files:
        held = json.loads((folder / name).read_text())
        for entry, value in held.items():
            found += [(name, entry, other) for other in _others(value)]
            found.append((name, entry, ...))
        found.append((name, "never_heard_of", {"a": 1}))
    return found


@pytest.mark.parametrize(("name", "files"), [
    ("BertTokenizer", (CONFIG, "added_tokens.json")),
    ("PreTrainedTokenizerFast", ("special_tokens_map.json", "tokenizer.json")),
])  # fmt: skip
def test_no_entry_is_ignored_in_silence(
    name: str, files: tuple[str, ...], saved: Saved, tmp_path: Path
) -> None:
    """Whatever an entry is changed to, the ids are Transformers' or one line names the file."""
    base = saved(name, tmp_path / "base")
    patch(base / "added_tokens.json", **{"<ent>": 400})
    patch(base / "special_tokens_map.json", cls_token=ENT | {"content": "[CLS]"},
          additional_special_tokens=["<ent>"])  # fmt: skip
    patch(base / CONFIG, do_lower_case=True, strip_accents=None, model_max_length=12,
          truncation_side="left", split_special_tokens=False)  # fmt: skip
    refused, same = [], 0
    for i, (file, entry, value) in enumerate(_mutations(base, files)):
        folder = Path(shutil.copytree(base, tmp_path / str(i)))
        if value is ...:
            patch(folder / file, (entry,))
        else:
            patch(folder / file, **{entry: value})
        try:
            made = reader(folder, tmp_path / str(i) / "out")
        except CanaoError as error:
            refused.append(str(error))
            continue
        same += 1
        assert_same(folder, made)
        assert entry != "never_heard_of"
    assert all(str(tmp_path) in line and "\n" not in line for line in refused)
    assert same > 10 and len(refused) > 10


@pytest.mark.parametrize(
    ("file", "entries", "named"),
    [
        (CONFIG, {"odd": 1}, f"{CONFIG}: 'odd'"),
        (CONFIG, {"vocab": "/etc/passwd"}, "'vocab'"),
        (CONFIG, {"merges_file": "../merges.txt"}, "'merges_file'"),
        (CONFIG, {"gguf_file": "x.gguf"}, "'gguf_file'"),
        (CONFIG, {"truncation_side": "middle"}, "'truncation_side'"),
        (CONFIG, {"model_max_length": 0}, "'model_max_length'"),
        (CONFIG, {"do_lower_case": "False"}, "'do_lower_case'"),
        (CONFIG, {"mask_token": {**ENT, "odd": True}}, "'mask_token.odd'"),
        (CONFIG, {"mask_token": {"special": True}}, "'mask_token' has no content"),
        (CONFIG, {"added_tokens_decoder": {"-1": ENT}}, "'added_tokens_decoder.-1'"),
        (CONFIG, {"added_tokens_decoder": {"4000000000": ENT}}, "added_tokens_decoder.4000000000"),
        (CONFIG, {"auto_map": {"AutoTokenizer": ["a.B", None]}}, "'auto_map'"),
        ("special_tokens_map.json", {"odd": "x"}, "special_tokens_map.json: 'odd'"),
        ("added_tokens.json", {"x": -1}, "added_tokens.json: 'x'"),
        ("tokenizer.json", {"odd": 1}, "tokenizer.json: 'odd'"),
        ("tokenizer.json", {"normalizer": {"type": "Lowercase", "odd": 1}}, "'normalizer.odd'"),
        ("tokenizer.json", {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Whitespace", "odd": True}]}}, "'pre_tokenizer.pretokenizers.0.odd'"),
    ],
)  # fmt: skip
def test_refusals_name_the_entry(
    file: str, entries: dict[str, Any], named: str, saved: Saved, tmp_path: Path
) -> None:
    folder = saved("PreTrainedTokenizerFast", tmp_path)
    patch(folder / file, **entries)
    with pytest.raises(UnsupportedError, match=re.escape(named)) as error:
        read_tokenizer(folder)
    assert "; " in str(error.value)


def test_what_is_ignored_on_request_is_not_seen(saved: Saved, tmp_path: Path) -> None:
    folder = saved("BertTokenizer", tmp_path)
    want = auto(folder)(TEXTS[0])["input_ids"]
    patch(folder / CONFIG, auto_map={"AutoTokenizer": ["odd.Odd", None]}, odd=1)
    patch(folder / "config.json", num_labels=-7)
    with pytest.raises(UnsupportedError, match=r"auto_map.*1 more"):
        reader(folder, tmp_path / "out")
    with pytest.raises(UnsupportedError, match="'odd'"):
        reader(folder, tmp_path / "out", ignored=(f"{CONFIG}:auto_map",))
    ignored = (f"{CONFIG}:auto_map", f"{CONFIG}:odd")
    made = reader(folder, tmp_path / "out", ignored=ignored)
    assert made.encode(TEXTS[0])[0].ids == want


# Vocabularies that are not a tokenizer.json.

TWEET = {"vocab.txt": "hel@@ 50\nlo 40\nworld 30\nw@@ 20\n",
         "bpe.codes": "h e 100\nhe l 90\nl o</w> 80\nw o 70\nwo r 60\nwor l 50\nworl d</w> 40\n"}
JAPANESE = {"vocab.txt": "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nhello\nworld\n##s\n"}


def _write(folder: Path, family: str, files: dict[str, str], **settings: Any) -> Path:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_text(content)
    (folder / "config.json").write_text(json.dumps({"model_type": family}))
    if settings:
        patch(folder / CONFIG, **settings)
    return folder


@pytest.mark.parametrize(
    ("family", "files", "settings", "words"),
    [
        ("roberta", TWEET, {"tokenizer_class": "BertweetTokenizer"}, "written in Python"),
        ("roberta", TWEET, {"tokenizer_class": "PhobertTokenizer"}, "written in Python"),
        ("bert", JAPANESE, {"tokenizer_class": "BertJapaneseTokenizer",
                            "word_tokenizer_type": "basic",
                            "subword_tokenizer_type": "character"}, "written in Python"),
        ("bert", JAPANESE, {"tokenizer_class": "BertJapaneseTokenizer",
                            "word_tokenizer_type": "mecab"}, "written in Python"),
        ("bert", JAPANESE, {"tokenizer_class": "KoBertTokenizer", "auto_map": {
            "AutoTokenizer": ["tokenization_kobert.KoBertTokenizer", None]}}, "auto_map"),
    ],
)  # fmt: skip
def test_tokenizers_in_python_are_refused_with_a_way_out(
    family: str, files: dict[str, str], settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    folder = _write(tmp_path / "model", family, files, **settings)
    with pytest.raises(UnsupportedError, match=words) as error:
        read_tokenizer(folder)
    assert "tokenizer" in str(error.value)
    if words == "written in Python":
        assert "--ignore vocab.txt" in str(error.value)
        inventory = Inventory(folder, ("vocab.txt",))
        assert read_tokenizer(folder, inventory) is None and not inventory.refusals


@pytest.mark.parametrize(
    ("family", "files", "settings", "words"),
    [
        # No class is named, and the family's own reads other files: never a guess.
        ("roberta", TWEET, {}, r"vocab.txt: .* reads merges.txt and vocab.json"),
        ("xlm-roberta", JAPANESE, {}, "reads sentencepiece.bpe.model"),
        ("bert", {"vocab.txt": ""}, {}, "no vocabulary is read"),
        ("bert", JAPANESE, {"tokenizer_class": "KoBertTokenizer"}, "cannot be read as a tokenizer"),
    ],
)
def test_a_vocabulary_of_another_class_is_not_guessed_at(
    family: str, files: dict[str, str], settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=words):
        read_tokenizer(_write(tmp_path / "model", family, files, **settings))


def test_without_its_tokenizer_a_model_takes_ids(tmp_path: Path) -> None:
    """The way out that the refusal names."""
    model, _ = save_model("ForSequenceClassification", tmp_path / "model")
    for name in ("tokenizer.json", CONFIG):
        (tmp_path / "model" / name).unlink()
    compiled = canao.compile(tmp_path / "model")
    assert compiled([5, 6, 7]).shape == (2,)


@pytest.mark.parametrize("name", ("spiece.model", "tokenizer.model"))
def test_sentencepiece_is_named_where_it_is_missing(name: str, tmp_path: Path) -> None:
    if find_spec("sentencepiece"):
        pytest.skip("sentencepiece is installed")
    folder = _write(tmp_path / "model", "t5" if name == "spiece.model" else "llama", {name: "x"})
    with pytest.raises(InputError, match=rf"{name}: needs sentencepiece.*pip install"):
        read_tokenizer(folder)


@pytest.mark.parametrize("name", ("XLMRobertaTokenizer", "AlbertTokenizer", "T5Tokenizer",
                                  "LlamaTokenizer"))  # fmt: skip
def test_a_model_of_sentencepiece_is_converted(name: str, tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    file = {"XLMRobertaTokenizer": "sentencepiece.bpe.model", "LlamaTokenizer": "tokenizer.model"}
    kind = "bpe" if name == "LlamaTokenizer" else "unigram"
    folder = _write(tmp_path / "model", CLASSES[name][0], {})
    with open(folder / file.get(name, "spiece.model"), "wb") as out:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(tokens.SENTENCES * 5), model_writer=out, vocab_size=120,
            model_type=kind, hard_vocab_limit=False, minloglevel=2,
            user_defined_symbols=["[CLS]", "[SEP]", "<pad>"] if name == "AlbertTokenizer" else [],
        )  # fmt: skip
    assert_same(folder, reader(folder, tmp_path / "out"))


# Hostile files.


def _replace(text: str, by: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": text}, "content": by}


def _nested(part: dict[str, Any], times: int, each: int = 2) -> dict[str, Any]:
    for _ in range(times):
        part = {"type": "Sequence", "normalizers": [part] * each}
    return part


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated",
            "invert": False}  # fmt: skip


def _charsmap(text: bytes) -> dict[str, Any]:
    return {"type": "Precompiled", "precompiled_charsmap": b64encode(text).decode()}


@pytest.mark.parametrize(
    ("part", "value", "words"),
    [
        ("normalizer", _nested(_replace("a", "aa"), 5), "times as long"),
        ("normalizer", _replace("\u01b6", "x" * 100_000), "times as long"),
        ("normalizer", {"type": "Replace", "pattern": {"Regex": "."}, "content": "b" * 5000},
         "times as long"),
        ("normalizer", _charsmap(b"\x00\x00\x00\x00" + b"x" * 5000 + b"\0"), "times as long"),
        ("normalizer", _charsmap(b"rubbish" * 9), ""),
        ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "#"},
         "breaks the tokenizers library"),
        ("normalizer", _nested({"type": "Lowercase"}, 70, 1), "nested"),
        ("decoder", _replace("a", "b" * 5000), "times as long"),
        ("pre_tokenizer", _split(r"(a+)+$"), "retry-limit"),
        ("pre_tokenizer", _split(r"\w*\w*\w*![^!]"), r"more than \d+ s"),
        ("pre_tokenizer", _split(r"(["), "cannot be read"),
        ("post_processor", {"type": "TemplateProcessing", "single": [
            {"Sequence": {"id": "A", "type_id": 0}}] * 2, "pair": [
            {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {}}, "puts a text in twice"),
        ("post_processor", {"type": "RobertaProcessing", "sep": ["</s>", 99999],
            "cls": ["<s>", 0], "trim_offsets": True, "add_prefix_space": False}, "id 99999"),
        ("added_tokens", [{**ENT, "id": -5}], "tokens cannot be read"),
        ("added_tokens", [{**ENT, "id": 1 << 40}], "tokens cannot be read"),
        ("added_tokens", [[]], "tokens cannot be read"),
    ],
)  # fmt: skip
def test_hostile_forms_are_refused_in_seconds(
    part: str, value: Any, words: str, saved: Saved, tmp_path: Path
) -> None:
    folder = saved("PreTrainedTokenizerFast", tmp_path)
    patch(folder / "tokenizer.json", **{part: value})
    start = time.monotonic()
    with pytest.raises(CanaoError, match=words) as error:
        read_tokenizer(folder)
    assert time.monotonic() - start < 40
    assert str(folder / "tokenizer.json") in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vocab": {"a": -1}}, "tokens cannot be read"),
        ({"vocab": {"a": 1 << 40}}, "tokens cannot be read"),
        ({"vocab": {"a": 0.5}}, "tokens cannot be read"),
        ({"vocab": 5}, "tokens cannot be read"),
        ({"dropout": 0.5}, "at random"),
        ({"unk_token": "<nowhere>"}, "nowhere"),
        ({"odd": 1}, "'model.odd'"),
        ({"type": "WordPiece", "max_input_chars_per_word": 10**9, "unk_token": "<unk>",
          "continuing_subword_prefix": "##"}, "max_input_chars_per_word"),
    ],
)  # fmt: skip
def test_odd_models_are_refused(
    changes: dict[str, Any], words: str, saved: Saved, tmp_path: Path
) -> None:
    folder = saved("PreTrainedTokenizerFast", tmp_path)
    form = json.loads((folder / "tokenizer.json").read_text())
    if "unk_token" in changes and "type" not in changes:
        form["pre_tokenizer"] = form["decoder"] = None  # bytes leave nothing unknown
    patch(folder / "tokenizer.json", **{**form, "model": form["model"] | changes})
    with pytest.raises(CanaoError, match=words):
        read_tokenizer(folder)


def test_files_that_never_end(saved: Saved, tmp_path: Path) -> None:
    for name in ("tokenizer.json", CONFIG, "special_tokens_map.json", "added_tokens.json"):
        folder = saved("BertTokenizer", tmp_path / name)
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)
        with pytest.raises(InputError, match="not a regular file"):
            read_tokenizer(folder)


def test_the_artifacts_tokenizer_is_the_one_that_was_checked(
    saved: Saved, tmp_path: Path
) -> None:
    made = reader(saved("BertTokenizer", tmp_path), tmp_path / "out")
    tokens.save(tokens.wordpiece(), tmp_path / "out")
    with pytest.raises(InputError, match="content differs from the manifest"):
        Reader(made.artifact)
    manifest = {**made.artifact.manifest, "tokenizer": {"kind": 5}}
    with pytest.raises(InputError, match=r"'tokenizer'.*compile again"):
        Reader(type(made.artifact)(tmp_path / "out", manifest))


def test_ids_beyond_the_models_vectors(tmp_path: Path) -> None:
    """A special token that every text gets, added after the model was made."""
    save_model("Model", tmp_path)
    patch(tmp_path / CONFIG, tokenizer_class="BertTokenizer", cls_token="<new>")
    with pytest.raises(InputError, match=r"puts id \d+ into every text, the model has vectors"):
        canao.compile(tmp_path)


def test_a_directory_described_without_loading_it(saved: Saved, tmp_path: Path) -> None:
    folder = saved("BertTokenizer", tmp_path)
    found, read = describe_tokenizer(folder), read_tokenizer(folder)
    assert found is not None and read is not None
    assert {k: read.description[k] for k in found} == found
    assert describe_tokenizer(tmp_path) is None and describe_tokenizer(None) is None
    whole = Tokenizer.from_str(read.contents["tokenizer.json"].decode())
    assert whole.get_vocab_size() == found["tokens"] == len(
        transformers.AutoTokenizer.from_pretrained(folder)
    )

"""Altered copies: which words are replaced, and by what an exhaustive search finds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_bert import BAD, GOOD, PLAIN, save_masked
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from canao.defaults import silent
from canao.errors import InputError
from canao.model import hf
from canao.train.data import NO_CLASS, Example
from canao.train.distillation.augment import MaskedModel, Neighbours, altered
from canao.train.distillation.words import WholeWords

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CASED = (*SPECIAL, "film", "Film", "FILM", "movie", "Movie", "story", "plot", "Paris", "Rome",
         "USA", "UK", "eBay", "##s", "##ing", "go", "don", "t", "s", "1984", ",", ".", "'", "-",
         "(", ")", "é", "café", "well", "known")  # fmt: skip


def word_piece(words: Sequence[str], lower: bool) -> PreTrainedTokenizerBase:
    raw = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    raw.normalizer = normalizers.BertNormalizer(lowercase=lower)
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.decoder = decoders.WordPiece()
    raw.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]",
    )  # fmt: skip


def byte_level() -> PreTrainedTokenizerBase:
    """As RoBERTa's: a word after a space has another token than at the beginning of a text."""
    words = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *(chr(i) for i in range(97, 123)), "Ġ"]
    merges, vocab = [], {w: i for i, w in enumerate(words)}
    for word in ("film", "plot"):
        parts = [(word[: end - 1], word[end - 1]) for end in range(2, len(word) + 1)]
        merges += [*parts, ("Ġ", word)]
    for a, b in merges:
        vocab[a + b] = len(vocab)
    raw = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", mask_token="<mask>",
                                   unk_token="<unk>")  # fmt: skip


def found(words: WholeWords, text: str) -> list[str]:
    return [text[s.start : s.end] for s in words.find([text])[0]]


def test_whole_words_are_letters_with_one_token() -> None:
    words = WholeWords(word_piece(CASED, lower=False), "here")
    left = {"##s", "##ing", "1984", ",", ".", "'", "-", "(", ")", *SPECIAL}
    assert set(words.texts) == set(CASED) - left
    assert [CASED[i] for i in words.tokens] == words.texts


@pytest.mark.parametrize(
    ("text", "spots"),
    [
        ("film films go going", ["film", "go"]),
        ('(film), Paris. "plot" go', ["film", "Paris", "plot", "go"]),
        ("don't go well-known t.s. film.", ["go", "film"]),
        ("film's plot, plot 's 'plot'", ["plot", "plot"]),
        ("1984 film1984 unknown\tUSA\n", ["USA"]),
        ("@film #plot $go film/plot", []),
        ("café go.", ["café", "go"]),
        ("", []),
    ],
)
def test_words_are_found_between_spaces_and_punctuation(text: str, spots: list[str]) -> None:
    assert found(WholeWords(word_piece(CASED, lower=False), "here"), text) == spots


def test_words_of_a_tokenizer_that_keeps_spaces() -> None:
    words = WholeWords(byte_level(), "here")
    assert sorted(words.texts) == ["film", "plot"]
    text = "film plot filmx  film"
    assert [(s.start, s.end) for s in words.find([text])[0]] == [(5, 9), (17, 21)]


def test_neighbours_are_those_of_an_exhaustive_search() -> None:
    """Cosines in float64, over every word that may stand there."""
    words = WholeWords(word_piece(CASED, lower=False), "here")
    table = torch.randn(len(CASED), 9, generator=torch.Generator().manual_seed(1))
    source = Neighbours(words, table)
    keys = list(words.tokens)
    rows = table.double().numpy()
    rows = rows / np.sqrt((rows**2).sum(1, keepdims=True))

    def case(word: str) -> tuple[bool, ...]:
        return word.islower(), word.istitle(), word.isupper() and not word.istitle()

    for token, near in zip(keys, source.candidates(keys, silent), strict=True):
        word = CASED[token]
        fit = [t for t in keys
               if case(CASED[t]) == case(word) and CASED[t].lower() != word.lower()]  # fmt: skip
        fit.sort(key=lambda t: -float(rows[t] @ rows[token]))
        assert list(near) == [CASED[t] for t in fit][:15], word
    by_word = dict(zip((CASED[t] for t in keys), source.candidates(keys, silent), strict=True))
    assert set(by_word["Film"]) == {"Paris", "Rome"} | {"Movie"} and by_word["eBay"] == ()


def test_replacements_have_the_capitals_of_the_text() -> None:
    words = WholeWords(word_piece((*SPECIAL, "film", "plot"), lower=True), "here")
    text = "Film FILM film fILm"
    spots = words.find([text])[0]
    assert [words.written(text, s, "plot") for s in spots] == ["Plot", "PLOT", "plot", "plot"]
    cased = WholeWords(word_piece(CASED, lower=False), "here")
    spot = cased.find(["USA"])[0][0]
    assert cased.written("USA", spot, "UK") == "UK"


@pytest.fixture(scope="module")
def source(tiny: Path) -> Neighbours:
    table = torch.randn(25, 6, generator=torch.Generator().manual_seed(2))
    return Neighbours(WholeWords(hf.load_tokenizer(tiny), str(tiny)), table)


EXAMPLES = [
    Example("The good film was a great story", None, 1),
    Example("bad", None, 0),
    Example("?!", None, 0),
    Example(" ".join((*GOOD, *BAD, *PLAIN)), None, 1),
]


def test_copies_differ_in_words_that_are_near(source: Neighbours) -> None:
    made = altered(EXAMPLES, source, 40, 0, NO_CLASS, silent)
    near = dict(zip(source.words.tokens, source.candidates(source.words.tokens, silent),
                    strict=True))  # fmt: skip
    token = dict(zip(source.words.texts, source.words.tokens, strict=True))
    originals = [e.text.split() for e in EXAMPLES]
    changed, total = 0, 0
    for copy in made:
        assert copy.label == NO_CLASS and copy.pair is None
        words = copy.text.split()
        old = next(o for o in originals if len(o) == len(words))
        differing = [(a, b) for a, b in zip(old, words, strict=True) if a != b]
        assert differing
        for a, b in differing:
            assert b.lower() in near[token[a.lower()]] and a.istitle() == b.istitle()
        if len(old) == 20:
            changed, total = changed + len(differing), total + 20
    assert len({c.text for c in made}) == len(made)
    assert 0.36 < changed / total < 0.44
    # The text of one word has as many copies at most as that word has neighbours, '?!' has none.
    single = {c.text for c in made if len(c.text.split()) == 1}
    assert single <= set(near[token["bad"]]) and len(single) > 10


def test_copies_are_the_same_for_the_same_seed(source: Neighbours) -> None:
    made = [altered(EXAMPLES, source, 3, seed, NO_CLASS, silent) for seed in (0, 0, 1)]
    assert made[0] == made[1] != made[2]
    # More copies leave the first as they are, and each example has its own.
    more = altered(EXAMPLES, source, 5, 0, NO_CLASS, silent)
    assert set(made[0]) < set(more)


def test_both_texts_of_a_pair_are_altered(source: Neighbours) -> None:
    pairs = [Example("good film", "the plot was bad", 1)] * 2
    made = altered(pairs, source, 30, 0, NO_CLASS, silent)
    assert any(c.text != "good film" for c in made)
    assert any(c.pair != "the plot was bad" for c in made)
    assert all(len(c.text.split()) == 2 and len(str(c.pair).split()) == 4 for c in made)


def test_texts_without_words_are_told(source: Neighbours) -> None:
    with pytest.raises(InputError, match=r"no training text has a word that --augment could"):
        altered([Example("?! 12", None, 1)], source, 3, 0, NO_CLASS, silent)


@pytest.fixture(scope="module")
def masked(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_masked(tmp_path_factory.mktemp("masked"), tiny)


def test_a_masked_model_is_asked_without_the_word(masked: Path) -> None:
    source = MaskedModel(masked, torch.device("cpu"))
    texts = ["The good film, was a great plot", "bad story", "cast " * 20 + "film"]
    keys = [(text, spot) for text, spots in zip(texts, source.words.find(texts), strict=True)
            for spot in spots]  # fmt: skip
    candidates = dict(zip(keys, source.candidates(keys, silent), strict=True))
    model = BertForMaskedLM.from_pretrained(masked)
    tokenizer = AutoTokenizer.from_pretrained(masked)
    known = set(GOOD + BAD + PLAIN)
    for text, spot in keys:
        ids = tokenizer(f"{text[: spot.start]}[MASK]{text[spot.end :]}", truncation=True,
                        max_length=16, return_tensors="pt")["input_ids"]  # fmt: skip
        at = ids[0].tolist().index(4) if 4 in ids[0].tolist() else None
        if at is None:  # cut off
            assert candidates[text, spot] == () and spot.start >= 14 * 5
            continue
        with torch.no_grad():
            scores = model(input_ids=ids).logits[0, at]
        ranked = tokenizer.convert_ids_to_tokens(scores.argsort(descending=True))
        word = text[spot.start : spot.end].lower()
        assert list(candidates[text, spot]) == [w for w in ranked if w in known - {word}][:15]
    assert () in candidates.values()
    made = altered([Example(t, None, 1) for t in texts[:2]], source, 4, 0, NO_CLASS, silent)
    assert made == altered([Example(t, None, 1) for t in texts[:2]], source, 4, 0, NO_CLASS, silent)


def test_what_cannot_predict_words_is_refused(
    tiny: Path, masked: Path, tmp_path: Path
) -> None:
    def asked(folder: Path) -> None:
        MaskedModel(folder, torch.device("cpu"))

    with pytest.raises(InputError, match=r"BertModel predicts no masked words; give --augment-m"):
        asked(tiny)
    with pytest.raises(InputError, match="no such directory"):
        asked(tmp_path / "none")
    small = tmp_path / "small"
    config = BertConfig(
        vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    BertForMaskedLM(config).save_pretrained(small)
    tokenizer = hf.load_tokenizer(tiny)
    tokenizer.save_pretrained(small)
    with pytest.raises(InputError, match="tokenizer has 25 tokens, the model 9"):
        asked(small)
    unmasked = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, pad_token="[PAD]", unk_token="[UNK]"
    )
    (small / "model.safetensors").unlink()
    BertForMaskedLM.from_pretrained(masked).save_pretrained(small)
    unmasked.save_pretrained(small)
    with pytest.raises(InputError, match="its tokenizer has no mask token"):
        asked(small)


def test_a_tokenizer_without_places_is_refused(tiny: Path) -> None:
    class Slow:
        is_fast = False

    with pytest.raises(InputError, match=r"somewhere: its tokenizer does not say where"):
        WholeWords(Slow(), "somewhere")


def test_words_beyond_what_a_masked_model_takes_have_none(masked: Path) -> None:
    """Also where none of a batch is within it."""
    source = MaskedModel(masked, torch.device("cpu"))
    source.length = 8
    text = "the film was " * 20
    spots = source.words.find([text])[0][-4:]
    assert list(source._expected([(text, spot) for spot in spots])) == [()] * 4
    assert source.words.nearest(torch.zeros(0, len(source.words.texts)), []) == []

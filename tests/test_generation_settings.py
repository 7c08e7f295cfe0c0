"""Settings of text generation, by options and by generation_config.json, beside Transformers."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import GenerationConfig

import canao as package
from canao.compiler.pipeline import compile_model
from canao.errors import InputError, UnsupportedError
from canao.inference.compiled_model import CompiledModel
from canao.inference.generation import SETTINGS, settings_of
from canao.inference.logits import narrowing, softmax
from canao.model.directory.generation import describe_generation
from canao.model.directory.loaded_model import LoadedModel
from canao.model.inventory.table import INERT, USED
from canao.model.inventory.tables.generation import GENERATION
from tests import tokens
from tests.oracle import SAME, assert_close
from tests.test_cli import canao, refused  # noqa: F401  canao is a fixture

VOCABULARY, LONGEST, NEW = 60, 80, 40
PROMPT = [3, 4, 5, 6, 4, 5, 9]
Pair = tuple[transformers.PreTrainedModel, CompiledModel]


def small(family: str, vocabulary: int = VOCABULARY) -> transformers.PreTrainedModel:
    """A decoder whose greedy texts do not fall into a loop at once, and end now and then."""
    torch.manual_seed(4)
    common = {"vocab_size": vocabulary, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1,
              "initializer_range": 0.5}  # fmt: skip
    if family == "GPT2":
        config: Any = transformers.GPT2Config(n_embd=32, n_head=4, n_layer=2, n_positions=LONGEST,
                                              **common)  # fmt: skip
        return transformers.GPT2LMHeadModel(config).eval()
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=LONGEST, tie_word_embeddings=False, **common,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module", params=("Llama", "GPT2"))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    model = small(request.param)
    model.generation_config.eos_token_id = None
    artifact = compile_model(model, tmp_path_factory.mktemp("decoder") / "out")
    return model, CompiledModel(artifact)


def written(model: Any, prompt: list[int] = PROMPT, **settings: Any) -> list[int]:
    """What Transformers writes after a prompt."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ids = torch.tensor([prompt])
        return model.generate(ids, **settings)[0, len(prompt) :].tolist()


# Each changes the text; `end` is a token that the plain text has early.
GREEDY: dict[str, Callable[[int], dict[str, Any]]] = {
    "plain": lambda end: {},
    "end": lambda end: {"eos_token_id": [59, end]},
    "min_length": lambda end: {"eos_token_id": end, "min_length": len(PROMPT) + 12},
    "min_new_tokens": lambda end: {"eos_token_id": end, "min_new_tokens": 12},
    "min_new_tokens over min_length": lambda end: {
        "eos_token_id": end, "min_new_tokens": 1, "min_length": 30
    },
    "repetition_penalty": lambda end: {"repetition_penalty": 1.7},
    "rewarded repetition": lambda end: {"repetition_penalty": 0.6},
    "encoder_repetition_penalty": lambda end: {"encoder_repetition_penalty": 3.0},
    "no_repeat_ngram_size 1": lambda end: {"no_repeat_ngram_size": 1},
    "no_repeat_ngram_size 2": lambda end: {"no_repeat_ngram_size": 2},
    "no_repeat_ngram_size 3": lambda end: {"no_repeat_ngram_size": 3, "repetition_penalty": 0.5},
    "encoder_no_repeat_ngram_size": lambda end: {
        "encoder_no_repeat_ngram_size": 1, "repetition_penalty": 0.3
    },
    "bad_words_ids": lambda end: {"bad_words_ids": [[end], [5, 6], [17, 44, 53]]},
    "bad end": lambda end: {"bad_words_ids": [[end], [7]], "eos_token_id": end},
    "sequence_bias": lambda end: {
        "sequence_bias": [[[end], -9.0], [[4], 6.0], [[4, 8], 30.0], [[4, 8, 9], 40.0]]
    },
    "suppress_tokens": lambda end: {"suppress_tokens": [end, 17, 44]},
    "begin_suppress_tokens": lambda end: {"begin_suppress_tokens": list(range(50))},
    "forced_eos_token_id": lambda end: {"forced_eos_token_id": 7},
    "several forced ends": lambda end: {"forced_eos_token_id": [9, 7]},
    "exponential_decay_length_penalty": lambda end: {
        "eos_token_id": 2, "exponential_decay_length_penalty": (5, 1.3)
    },
    "remove_invalid_values": lambda end: {"remove_invalid_values": True, "suppress_tokens": [end]},
    "many": lambda end: {
        "repetition_penalty": 1.2, "no_repeat_ngram_size": 3, "suppress_tokens": [17],
        "bad_words_ids": [[44, 53]], "eos_token_id": end, "min_new_tokens": 5,
    },
}  # fmt: skip


@pytest.mark.parametrize("case", GREEDY)
def test_greedy_texts_are_those_of_transformers(pair: Pair, case: str) -> None:
    model, compiled = pair
    plain = written(model, max_new_tokens=NEW)
    end = plain[4]
    settings = GREEDY[case](end)
    want = written(model, max_new_tokens=NEW, **settings)
    ends = settings.pop("eos_token_id", None)
    stop = {} if ends is None else {"stop": ends if isinstance(ends, list) else [ends]}
    got = compiled.generate(PROMPT, NEW, **settings, **stop).tolist()
    assert got == want
    assert case == "plain" or want != plain


def test_the_token_after_a_prompt_of_one_token(pair: Pair) -> None:
    model, compiled = pair
    for settings in (
        {"forced_bos_token_id": 9},
        {"forced_bos_token_id": 9, "begin_suppress_tokens": list(range(40))},
        {"begin_suppress_tokens": list(range(40))},
        {"forced_bos_token_id": 9, "forced_eos_token_id": 4},
    ):
        for prompt in ([5], [5, 6]):
            want = written(model, prompt, max_new_tokens=9, **settings)
            assert compiled.generate(prompt, 9, **settings).tolist() == want


def test_lengths(pair: Pair) -> None:
    model, compiled = pair
    assert compiled.generate(PROMPT, max_length=20).tolist() == written(model, max_length=20)
    assert len(compiled.generate(PROMPT)) == 64
    assert len(compiled.generate(PROMPT, max_length=500)) == LONGEST - len(PROMPT) + 1
    with pytest.raises(InputError, match="7 tokens, and max_length lets a sequence have 7"):
        compiled.generate(PROMPT, max_length=7)
    assert len(compiled.generate(PROMPT, 30, max_time=0.0)) == 1


# Settings of sampling, each as Transformers narrows the choice.
DRAWN: list[dict[str, Any]] = [
    {},
    {"temperature": 0.7},
    {"temperature": 3.0, "top_k": 0},
    {"top_k": 5},
    {"top_k": 1},
    {"top_k": 1000},
    {"top_p": 0.8},
    {"top_p": 0.0},
    {"top_p": 1.0, "top_k": 0},
    {"min_p": 0.05, "top_k": 0},
    {"min_p": 1.0},
    {"typical_p": 0.6, "top_k": 0},
    {"typical_p": 0.999, "top_k": 0},
    {"top_h": 0.4, "top_k": 0},
    {"top_h": 0.95, "top_k": 0},
    {"epsilon_cutoff": 0.02, "top_k": 0},
    {"epsilon_cutoff": 0.9, "top_k": 0},
    {"eta_cutoff": 0.02, "top_k": 0},
    {"temperature": 1.5, "top_k": 40, "top_p": 0.9, "min_p": 0.01, "typical_p": 0.9},
]


@pytest.mark.parametrize("settings", DRAWN, ids=str)
def test_tokens_are_drawn_by_the_probabilities_of_transformers(settings: dict[str, Any]) -> None:
    model = small("GPT2")
    config = GenerationConfig(do_sample=True, **settings)
    config.update(**GenerationConfig._get_default_generation_params(), defaults_only=True)
    config._eos_token_tensor = None
    random = np.random.default_rng(3)
    chosen = settings_of({}, {"do_sample": True, **settings})
    for spread in (0.5, 2.0, 6.0):
        logits = random.normal(0, spread, (1, 500)).astype(np.float32)
        if settings.get("top_k"):
            logits[0, 7] = logits[0, 8] = logits.max() + 0.5  # a tie, of which both are kept
        logits[0, 20:30] = -np.inf
        steps = model._get_logits_processor(
            config, 3, torch.tensor([PROMPT]), logits_processor=transformers.LogitsProcessorList()
        )
        scores = steps(torch.tensor([PROMPT]), torch.from_numpy(logits.copy()))
        want = torch.softmax(scores.double(), -1)[0].numpy()
        own = logits[0]
        for step in narrowing(chosen):
            own = step(np.array(PROMPT), own)
        got = softmax(own.astype(np.float64))
        assert ((got > 0) == (want > 0)).all()
        assert_close(got, want, tolerance=SAME)


def test_what_says_whether_tokens_are_drawn() -> None:
    for files, options, drawn in (
        ({}, {}, False),
        ({}, {"temperature": 0.5}, True),
        ({}, {"temperature": 0}, False),
        ({}, {"do_sample": True}, True),
        ({}, {"do_sample": False, "temperature": 0.5}, False),
        ({"do_sample": True}, {}, True),
        ({"do_sample": True}, {"top_k": 4}, True),
        ({"do_sample": True}, {"temperature": 0}, False),
        ({"do_sample": True}, {"do_sample": False}, False),
        ({"temperature": 0.5, "top_k": 4}, {}, False),
        ({"temperature": 0.5}, {"do_sample": True}, True),
    ):
        found = settings_of(files, options)
        assert found["do_sample"] is drawn, (files, options)
        assert found["temperature"] == {**{"temperature": 1}, **files, **options}["temperature"]
    assert settings_of({"do_sample": True}, {})["top_k"] == 50
    assert settings_of({"max_new_tokens": 5}, {"max_length": 9})["max_new_tokens"] is None
    assert settings_of({"min_length": 5}, {"min_new_tokens": 1})["min_length"] == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": "hot"}, "temperature is 'hot'"),
        ({"temperature": 0, "do_sample": True}, "at 0 nothing can be drawn"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_k": 2.5}, "top_k is 2.5"),
        ({"top_k": 4}, "top_k counts only where tokens are drawn"),
        ({"top_p": 1.1}, "top_p is 1.1"),
        ({"min_p": 0.1}, "min_p counts only"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0"),
        ({"max_new_tokens": -1}, "max_new_tokens is -1"),
        ({"bad_words_ids": [[]]}, "bad_words_ids"),
        ({"num_beams": 2}, "num_beams is no setting.*repetition_penalty"),
    ],
)
def test_options_that_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        settings_of({}, options)


def test_every_entry_of_transformers_is_known() -> None:
    names = {*GenerationConfig().to_dict(), *GenerationConfig._get_default_generation_params()}
    assert sorted(names - set(GENERATION.entries)) == []
    used = {name for name, entry in GENERATION.entries.items() if entry.status == USED}
    assert used == {*SETTINGS, "eos_token_id"}
    for name, value in GenerationConfig._get_default_generation_params().items():
        entry = GENERATION.entries[name]
        assert entry.status in (USED, INERT)
        assert entry.only is None or any(value is o or value == o for o in entry.only), name


def save(folder: Path, **entries: Any) -> transformers.PreTrainedModel:
    """A decoder with a tokenizer and these entries in its generation_config.json."""
    transformers.utils.logging.disable_progress_bar()
    bpe = tokens.byte_bpe()
    model = small("Llama", bpe.get_vocab_size())
    model.save_pretrained(folder)
    bpe.post_processor = None
    bpe.save(str(folder / "tokenizer.json"))
    write(folder / "generation_config.json", **{"eos_token_id": None, **entries})
    return model


def write(path: Path, **entries: Any) -> None:
    held = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({k: v for k, v in {**held, **entries}.items() if v is not ...}))


def test_the_file_decides_and_options_override_it(canao, tmp_path: Path) -> None:  # noqa: F811
    model, text = save(tmp_path / "model"), tokens.SENTENCES[1]
    ids = tokens.byte_bpe().encode(text, add_special_tokens=False).ids
    end = written(model, ids, max_new_tokens=12, eos_token_id=None, repetition_penalty=1.3)[6]
    write(tmp_path / "model" / "generation_config.json", repetition_penalty=1.3,
          eos_token_id=[2, end], max_new_tokens=12, begin_suppress_tokens=[end],
          temperature=0.6, transformers_version="5.0.0")  # fmt: skip
    done = canao("compile", str(tmp_path / "model"), "-o", str(tmp_path / "out"))
    assert done.returncode == 0 and f"ends at token 2, {end}" in done.stdout
    assert "repetition_penalty 1.3" in done.stdout and "temperature" not in done.stdout
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    with CompiledModel(tmp_path / "out") as compiled:
        want = written(loaded, ids)
        assert want[-1] == end and len(want) < 12
        assert compiled.generate(text).tolist() == want
        assert compiled.generate(ids, max_new_tokens=4).tolist() == want[:4]
        assert compiled.generate(ids, repetition_penalty=1.0, stop=()).tolist() == written(
            loaded, ids, repetition_penalty=1.0, eos_token_id=[])  # fmt: skip
        manifest = compiled.artifact.manifest
        assert manifest["stop_tokens"] == [2, end]
        assert manifest["generation"] == {
            "repetition_penalty": 1.3, "max_new_tokens": 12, "begin_suppress_tokens": [end],
            "temperature": 0.6,
        }  # fmt: skip
    said = canao("run", str(tmp_path / "out"), text, "--no-repeat-ngram-size", "1",
                 "--min-new-tokens", "9", "--json")  # fmt: skip
    more = written(loaded, ids, no_repeat_ngram_size=1, min_new_tokens=9)
    assert json.loads(said.stdout)["generated"] == tokens.byte_bpe().decode(more)
    refused(canao("run", str(tmp_path / "out"), text, "--top-k", "4"), "top_k", "--sample")
    drawn = [canao("run", str(tmp_path / "out"), text, "--sample", "--seed", "5").stdout
             for _ in range(2)]  # fmt: skip
    assert drawn[0] == drawn[1] != canao("run", str(tmp_path / "out"), text).stdout
    refused(canao("run", str(tmp_path / "out"), text, "--sample", "--seed", "-5"), "seed")


def test_a_model_that_draws_draws(canao, tmp_path: Path) -> None:  # noqa: F811
    save(tmp_path / "model", do_sample=True, temperature=0.9, top_p=0.95, max_new_tokens=8)
    done = canao("inspect", str(tmp_path / "model"))
    assert "tokens are drawn at temperature 0.9, top_k 50, top_p 0.95" in done.stdout
    compiled = package.compile(tmp_path / "model")
    texts = [compiled.generate(PROMPT, seed=s).tolist() for s in (1, 1, 2, 3)]
    assert texts[0] == texts[1] and texts[2] != texts[3]
    greedy = compiled.generate(PROMPT, do_sample=False).tolist()
    assert compiled.generate(PROMPT, temperature=0).tolist() == greedy and len(greedy) == 8


def test_without_the_file_config_json_has_the_settings(tmp_path: Path) -> None:
    """As in Transformers, which reads them there then, and only then."""
    save(tmp_path, no_repeat_ngram_size=2, max_new_tokens=20)
    write(tmp_path / "config.json", repetition_penalty=1.6, max_length=25, eos_token_id=7)
    for settings in ({"no_repeat_ngram_size": 2, "max_new_tokens": 20},
                     {"repetition_penalty": 1.6, "max_length": 25}):  # fmt: skip
        loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
        compiled = package.compile(tmp_path)
        assert compiled.artifact.manifest["generation"] == settings
        assert compiled.generate(PROMPT).tolist() == written(loaded)
        (tmp_path / "generation_config.json").unlink(missing_ok=True)
    assert compiled.artifact.manifest["stop_tokens"] == [7]


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"num_beams": 4}, "'num_beams'.*only greedy decoding and sampling"),
        ({"num_beam_groups": 2}, "'num_beam_groups'"),
        ({"penalty_alpha": 0.6, "top_k": 4}, "'penalty_alpha'"),
        ({"guidance_scale": 1.5}, "'guidance_scale'"),
        ({"prompt_lookup_num_tokens": 3}, "'prompt_lookup_num_tokens'.*not drafted"),
        ({"watermarking_config": {"bias": 2.0}}, "'watermarking_config'"),
        ({"dola_layers": "high"}, "'dola_layers'"),
        ({"token_healing": True}, "'token_healing'"),
        ({"num_return_sequences": 2, "do_sample": True}, "'num_return_sequences'"),
        ({"cache_implementation": "quantized"}, "'cache_implementation'.*float32"),
        ({"temperature": "warm"}, "'temperature' expected float"),
        ({"top_k": -3}, "'top_k' expected int >= 0"),
        ({"eos_token_id": "</s>"}, "'eos_token_id'"),
        ({"do_sample": True, "temperature": 0.0}, "'temperature' is 0"),
        ({"forced_eos_token_id": 9999}, "token 9999"),
        ({"bad_words_ids": [[3], [9999]]}, "token 9999"),
        ({"suppress_tokens": [5], "forced_bos_token_id": 5}, "'suppress_tokens' rules out"),
        ({"exponential_decay_length_penalty": [3, 1.1]}, "no end token"),
        ({"custom_generate": "generate.py"}, "'custom_generate'.*no code"),
        ({"novelty": 1}, r"'novelty' \(1\) is not known.*--ignore generation_config.json:novelty"),
    ],
)
def test_what_a_file_asks_for_in_vain(entries: dict[str, Any], words: str, tmp_path: Path) -> None:
    write(tmp_path / "generation_config.json", **entries)
    config = transformers.LlamaConfig(vocab_size=VOCABULARY)
    with pytest.raises(UnsupportedError, match=f"generation_config.json: .*{words}"):
        describe_generation(LoadedModel(None, config, tmp_path), "text-generation")
    assert describe_generation(LoadedModel(None, config, tmp_path), "fill-mask")["generation"] == {}


def test_a_file_that_is_refused_leaves_nothing(canao, tmp_path: Path) -> None:  # noqa: F811
    save(tmp_path / "model", num_beams=4)
    compiled = "compile", str(tmp_path / "model"), "-o", str(tmp_path / "out")
    refused(canao(*compiled), "generation_config.json", "'num_beams' is 4")
    (tmp_path / "model" / "generation_config.json").write_text("{,}")
    refused(canao(*compiled), "generation_config.json", "JSON")
    assert not (tmp_path / "out").exists()


def test_texts_that_end_a_text(tmp_path: Path) -> None:
    """Wherever a stop string is among the tokens, as Transformers finds it."""
    model = save(tmp_path)
    compiled = package.compile(tmp_path)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=tokens.byte_bpe())
    prompt = tokenizer(tokens.SENTENCES[1], add_special_tokens=False).input_ids
    # Halves of characters have no text of their own.
    odd = [i for i in range(len(tokenizer)) if not tokenizer.decode([i]).isascii()]
    plain = tokenizer.decode(compiled.generate(prompt, 30, suppress_tokens=odd).tolist())
    assert len(plain) > 30
    found = 0
    over = tokens.SENTENCES[1][-3:] + plain[:2]
    for stops in (plain[5:8], [plain[9:10]], [plain[3:12], "~~~~"], "no engine writes this",
                  [over], [plain[20:26], plain[24:27]]):  # fmt: skip
        settings = {"suppress_tokens": odd, "stop_strings": stops}
        want = written(model, prompt, max_new_tokens=30, eos_token_id=None, tokenizer=tokenizer,
                       **settings)  # fmt: skip
        assert compiled.generate(prompt, 30, **settings).tolist() == want
        found += len(want) < 30
    assert found >= 4
    with pytest.raises(InputError, match="stop_strings"):
        compiled.generate(prompt, 30, stop_strings=[""])

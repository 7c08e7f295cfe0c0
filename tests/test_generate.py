"""Text generation: how tokens are drawn, how text comes out, and the command line."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tokenizers

from canao.compiler.pipeline import compile_model
from canao.inference.compiled_model import CompiledModel
from canao.inference.generation import pieces, settings_of, tokens
from tests.compiler.models import decoder
from tests.test_cli import canao, refused  # noqa: F401  canao is a fixture

TEXT = "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. " * 3


def test_tokens_are_drawn_by_their_probability() -> None:
    logits = np.log(np.array([0.1, 0.4, 0.05, 0.25, 0.2], np.float32))
    prompt, drawn = np.array([0]), {}
    for seed in (1, 1, 2):
        settings = settings_of({}, {"temperature": 2.0, "top_k": 4})
        drawn[seed] = list(tokens(lambda new: logits, prompt, 4000, settings, seed=seed))
        got = np.bincount(drawn[seed], minlength=5) / 4000
        p = np.exp(logits / 2) * (np.arange(5) != 2)
        assert np.abs(got - p / p.sum()).max() < 0.03
        assert drawn[seed] == drawn[1] or seed == 2
    assert drawn[1] != drawn[2]
    assert set(tokens(lambda new: logits, prompt, 50, settings_of({}, {}))) == {1}


def test_a_text_ends_at_its_count_or_a_stop_token() -> None:
    given: list[list[int]] = []

    def extend(new: np.ndarray) -> np.ndarray:
        given.append(new.tolist())
        return -np.abs(np.arange(9) - new[-1] - 1.0)  # the next number

    greedy = settings_of({}, {})
    assert list(tokens(extend, np.array([1, 2]), 3, greedy)) == [3, 4, 5]
    assert given == [[1, 2], [3], [4]]
    assert list(tokens(extend, np.array([4]), 9, greedy, (7,))) == [5, 6, 7]
    assert list(tokens(extend, np.array([4]), 0, greedy)) == []


def test_characters_of_several_tokens_come_whole() -> None:
    data = "aä€b".encode()
    got = list(pieces(lambda ids: bytes(ids).decode(errors="replace"), iter(data)))
    assert got == ["a", "ä", "€", "b", ""]
    assert "".join(pieces(lambda ids: bytes(ids).decode(errors="replace"), iter(data[:2]))) == (
        "a\ufffd"
    )


@pytest.fixture(scope="module", params=("tokenizer.json", "vocab.json"))
def model_dir(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder with a byte-level tokenizer, saved in the newer or in the older form."""
    folder = tmp_path_factory.mktemp("decoder")
    bpe = tokenizers.ByteLevelBPETokenizer()
    bpe.train_from_iterator([TEXT], vocab_size=300, special_tokens=["<|endoftext|>"])
    if request.param == "tokenizer.json":
        bpe.save(str(folder / "tokenizer.json"))
    else:
        bpe.save_model(str(folder))
    model = decoder("small", max_length=64, vocabulary=bpe.get_vocab_size())
    model.config.eos_token_id = None
    model.save_pretrained(folder)
    return folder


def test_the_command_line_goes_on_with_a_text(canao, model_dir: Path, tmp_path: Path) -> None:  # noqa: F811
    out = str(tmp_path / "out")
    assert canao("compile", str(model_dir), "-o", out).returncode == 0
    prompt = "Boxkämpfer jagen"
    done = canao("run", out, prompt, "--max-new-tokens", "12")
    assert done.returncode == 0 and done.stdout.startswith(prompt)
    with CompiledModel(out) as model:
        ids = model.generate(prompt, 12)
        assert len(ids) == 12
        read = tokenizers.Tokenizer.from_file(f"{out}/tokenizer.json")
        assert done.stdout == prompt + read.decode(ids.tolist()) + "\n"
    drawn = ["run", out, prompt, "--temperature", "0.9", "--top-k", "20", "--seed"]
    texts = [canao(*drawn, seed).stdout for seed in ("1", "1", "2")]
    assert texts[0] == texts[1] != texts[2]
    refused(canao("run", out, "viel " * 100), "text has", "64")
    refused(canao("run", out, prompt, "--temperature", "-1"), "temperature")
    refused(canao("run", out, prompt, "--pooling", "mean"), "pooling")
    told = json.loads(canao("run", out, prompt, "--json", "--max-new-tokens", "12").stdout)
    assert told["text"] == prompt and prompt + told["generated"] + "\n" == done.stdout
    cut = canao("run", out, "viel " * 100, "--truncate", "--max-new-tokens", "3")
    assert cut.returncode == 0 and "truncated from" in cut.stderr
    with CompiledModel(out) as model:
        assert model.predict([prompt] * 2, max_new_tokens=12) == [told["generated"]] * 2


def test_several_texts_at_once(tmp_path: Path) -> None:
    """Each of them in a loaded model of its own, in a thread of its own."""
    artifact = compile_model(decoder("small", max_length=64), tmp_path / "out")
    prompts = [np.arange(3, 9), np.arange(40, 61)]
    with CompiledModel(artifact) as one, CompiledModel(artifact) as two:
        alone = [one.generate(prompt, 30).tolist() for prompt in prompts]
        with ThreadPoolExecutor(2) as pool:
            for _ in range(3):
                runs = zip((one, two), prompts, strict=True)
                together = [pool.submit(model.generate, prompt, 30) for model, prompt in runs]
                assert [run.result().tolist() for run in together] == alone


def test_bench_times_prompts_and_tokens(canao, tmp_path: Path) -> None:  # noqa: F811
    out = tmp_path / "out"
    compile_model(decoder("small", max_length=64), out)
    done = canao("bench", str(out), "--samples", "20", "--length", "17", "--json", "--profile")
    form = json.loads(done.stdout)
    assert form["token_ms"]["p50"] > 0 and form["latency_ms"]["n"] >= 20
    assert any(row["kernel"].endswith("_append") for row in form["profile_ms"])
    done = canao("bench", str(out), "--samples", "5", "--length", "17", "--threads", "2")
    assert re.search(r"token +[0-9.]+ ms", done.stdout)
    full = canao("bench", str(out), "--samples", "5", "--length", "64").stdout
    assert re.search(r"p50 +[0-9.]+ ms", full) and not re.search(r"token +[0-9.]+ ms", full)

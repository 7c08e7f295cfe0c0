"""Changes of the settings files of small models, and what must come of each."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from canao.compiler.pipeline import compile_model
from canao.errors import CanaoError
from canao.inference.compiled_model import CompiledModel
from tests.heads import LONGEST, save_model
from tests.oracle import SHALLOW

TEXT = "Ada Lovelace worked in London, with Charles Babbage."
ADDED = "an_entry_of_the_future"
# Files that Transformers writes and that are settings; a tokenizer.json is a model of its own.
_SETTINGS = ("config.json", "generation_config.json", "tokenizer_config.json",
             "special_tokens_map.json", "modules.json", "config_sentence_transformers.json",
             "sentence_bert_config.json", "1_Pooling/config.json")  # fmt: skip
_Oracle = Callable[[Path], Any]


@dataclass(frozen=True, slots=True)
class Model:
    """A model directory, what another library computes of it, and what its compiled form does."""

    folder: Path
    oracle: _Oracle
    ours: Callable[[CompiledModel], Any]


@dataclass(frozen=True, slots=True)
class Change:
    """`how` the entry of a file is changed; `value` is the new one, None if it is removed."""

    file: str
    entry: str
    how: str
    value: Any = field(compare=True, hash=False, default=None)

    def __str__(self) -> str:
        return f"{self.file}: {self.entry} {self.how} {json.dumps(self.value)[:60]}"


@dataclass(frozen=True, slots=True)
class Outcome:
    change: Change
    right: bool
    refused: bool
    said: str


def changes_of(model: Model) -> list[Change]:
    """All changes of all settings files of a model."""
    found = []
    for file in _SETTINGS:
        path = model.folder / file
        if path.is_file():
            held = json.loads(path.read_text())
            if isinstance(held, dict):
                found += list(_changes(file, held))
    return found


def _changes(file: str, held: dict[str, Any]) -> Iterator[Change]:
    yield Change(file, ADDED, "added", {"a": [1, 2]})
    yield Change(file, ADDED, "added", True)
    for entry, value in held.items():
        yield Change(file, entry, "removed")
        yield from (Change(file, entry, "another value", v) for v in _others(value))
        yield from (Change(file, entry, "another type", v) for v in _strangers(value))


def _others(value: Any) -> list[Any]:
    """Other values of the same type."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, max(0, value - 1), -1]
    if isinstance(value, float):
        return [value * 2, 0.0]
    if isinstance(value, str):
        return [value + "x", ""]
    if isinstance(value, list):
        return [[], value + value]
    if isinstance(value, dict):
        return [{}, dict(list(value.items())[1:])]
    return [0, "x"]


def _strangers(value: Any) -> list[Any]:
    """Values of other types."""
    kinds: list[Any] = ["text", 7, 0.5, [], {}, None]
    return [k for k in kinds if type(k) is not type(value)][:4]


def sampled(changes: Sequence[Change], count: int, seed: int) -> list[Change]:
    """`count` of the changes, the same for the same seed, with one unknown entry among them."""
    rest = [c for c in changes if c.how != "added"]
    added = [c for c in changes if c.how == "added"]
    return added[:1] + random.Random(seed).sample(rest, min(count, len(rest)))


def tried(model: Model, change: Change, place: Path) -> Outcome:
    """Make the change in a copy of the model, compile it, and compare."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(model.folder, place)
    path = place / change.file
    held = json.loads(path.read_text())
    if change.how == "removed":
        del held[change.entry]
    else:
        held[change.entry] = change.value
    path.write_text(json.dumps(held))
    artifact = place.with_name(f"{place.name}-out")
    try:
        compile_model(place, artifact, tuned=False)
        with CompiledModel(artifact) as compiled:
            ours = model.ours(compiled)
    except CanaoError as error:
        said = str(error)
        named = change.entry in said or Path(change.file).name in said or _tells(said)
        right = named and "\n" not in said and not artifact.exists()
        return Outcome(change, right, True, said)
    finally:
        shutil.rmtree(artifact, ignore_errors=True)
    if change.how == "added":
        return Outcome(change, False, False, "an unknown entry was taken without a word")
    try:
        want = model.oracle(place)
    except ValueError as error:
        # The oracle pads even a text that is alone; CANAO pads nothing.
        alone = change.entry == "pad_token" and "padding token" in str(error)
        return Outcome(change, alone, False, f"compiled; the oracle refuses: {error!r}"[:300])
    except Exception as error:  # noqa: BLE001  whatever the other library raises
        return Outcome(change, False, False, f"compiled; the oracle refuses: {error!r}"[:300])
    return Outcome(change, _alike(ours, want), False, f"{ours} where {want} is right"[:600])


def _tells(said: str) -> bool:
    """Weights that no longer fit the configuration name themselves."""
    return "config.json" in said or "weight" in said or "tokenizer" in said


def _alike(ours: Any, want: Any) -> bool:
    if isinstance(want, dict):
        return (isinstance(ours, dict) and ours.keys() == want.keys()
                and all(abs(ours[k] - want[k]) < 1e-4 for k in want))  # fmt: skip
    if isinstance(want, (list, str)):
        return bool(ours == want)
    ours, want = np.asarray(ours), np.asarray(want)
    return ours.shape == want.shape and bool(np.abs(ours - want).max() <= 1e-4 + 1e-4 * SHALLOW)


def _classifier(folder: Path) -> Model:
    names = ("sad", "glad", "so-so")
    save_model("ForSequenceClassification", folder, id2label=dict(enumerate(names)),
               label2id={n: i for i, n in enumerate(names)})  # fmt: skip

    def oracle(place: Path) -> dict[str, float]:
        import transformers

        run = transformers.pipeline("text-classification", model=str(place), device="cpu")
        return {r["label"]: r["score"] for r in run(TEXT, top_k=None)}

    return Model(folder, oracle, lambda compiled: dict(compiled.predict(TEXT).scores))


def _tagger(folder: Path) -> Model:
    save_model("ForTokenClassification", folder, id2label={0: "O", 1: "B-PER", 2: "I-PER"},
               label2id={"O": 0, "B-PER": 1, "I-PER": 2})  # fmt: skip

    def oracle(place: Path) -> dict[str, float]:
        import transformers

        run = transformers.pipeline("token-classification", model=str(place), device="cpu",
                                    aggregation_strategy="simple")  # fmt: skip
        return {f"{r['entity_group']} {r['start']}": float(r["score"]) for r in run(TEXT)}

    def ours(compiled: CompiledModel) -> dict[str, float]:
        found = compiled.predict(TEXT, aggregate="simple")
        return {f"{e.label} {e.start}": e.score for e in found}

    return Model(folder, oracle, ours)


def _sentence(folder: Path) -> Model:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    inner = folder.with_name("inner")
    save_model("Model", inner)
    st = SentenceTransformer(
        modules=[Transformer(str(inner), max_seq_length=LONGEST // 4), Pooling(48, "mean"),
                 Normalize()],
        device="cpu", prompts={"query": "find: "}, default_prompt_name="query",
    )  # fmt: skip
    st.save(str(folder))

    def oracle(place: Path) -> np.ndarray:
        return SentenceTransformer(str(place), device="cpu").encode(TEXT)

    return Model(folder, oracle, lambda compiled: compiled.predict(TEXT))


def _decoder(folder: Path) -> Model:
    import torch
    import transformers

    from tests.heads import fast_tokenizer

    tokenizer = fast_tokenizer("BPE")
    torch.manual_seed(3)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=LONGEST,
        bos_token_id=tokenizer.bos_token_id or 1, eos_token_id=tokenizer.sep_token_id,
        pad_token_id=tokenizer.pad_token_id, initializer_range=0.6, tie_word_embeddings=False,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    model.generation_config.repetition_penalty = 1.1
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)

    def oracle(place: Path) -> list[int]:
        loaded = transformers.AutoModelForCausalLM.from_pretrained(place).eval()
        reader = transformers.AutoTokenizer.from_pretrained(place)
        given = reader(TEXT, return_tensors="pt")["input_ids"]
        made = loaded.generate(given, max_new_tokens=8, do_sample=False)
        return made[0, given.shape[1] :].tolist()

    return Model(folder, oracle, lambda compiled: compiled.generate(TEXT, 8).tolist())


KINDS: dict[str, Callable[[Path], Model]] = {
    "classifier": _classifier, "tagger": _tagger, "sentence": _sentence, "decoder": _decoder,
}  # fmt: skip

"""Directories that Sentence-Transformers wrote, each of its modules: the same vectors, or a refusal
that names the module."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer, SparseEncoder
from sentence_transformers.sentence_transformer import modules
from sentence_transformers.sparse_encoder.modules import MLMTransformer, SpladePooling
from torch import nn

import canao
from canao.artifact.files import file_digest
from canao.compiler.loading import load_model, load_tokenizer
from canao.inference.tasks.reader import Reader
from canao.model.directory.loaded_model import load_directory
from canao.model.directory.task import describe_head
from canao.model.inventory.inventory import Inventory
from canao.model.sentence.embedding import with_embedding
from canao.model.sentence.sentence import read_sentence
from tests import tokens
from tests.heads import LONGEST, fast_tokenizer, save_model
from tests.oracle import assert_close
from tests.sentence_models import WIDTH, encoded, saved, transformer
from tests.test_cli import canao as canao_command  # noqa: F401

TEXTS = ("Ada", "Ada Lovelace worked in London, with Charles Babbage.", tokens.SENTENCES[2])
PROMPTS = {"query": "Ada worked in: ", "document": "", "long": "Charles Babbage, in London: "}


def patch(path: Path, drop: tuple[str, ...] = (), **entries: Any) -> None:
    held = json.loads(path.read_text()) if path.exists() else {}
    held = {k: v for k, v in {**held, **entries}.items() if k not in drop}
    path.write_text(json.dumps(held))


def random(module: nn.Module) -> Any:
    """With weights that are not what they were made with."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.uniform_(-0.5, 0.5)
    return module


def token_modules() -> list[Any]:
    """Modules of the tokens' vectors, and after the pooling all that take a sentence's."""
    return [
        modules.Dense(
            WIDTH, 40, activation_function=nn.GELU(), module_input_name="token_embeddings"
        ),
        modules.Normalize("token_embeddings"),
        random(modules.CNN(40, 24, [1, 3])),
        modules.Pooling(48, ("mean", "max")),
        modules.Dropout(0.3),
        random(modules.LayerNorm(96)),
        modules.Dense(96, 96, activation_function=nn.ReLU6(), use_residual=True),
        modules.Dense(96, 33, bias=False, activation_function=None, use_residual=True),
        modules.Normalize(),
    ]


def test_every_module_of_tokens_and_of_sentences(tmp_path: Path) -> None:
    model = saved([transformer(tmp_path), *token_modules()], tmp_path / "model", truncate_dim=20)
    compiled = canao.compile(tmp_path / "model")
    manifest = compiled.artifact.manifest
    assert manifest["pooling"]["truncate_dim"] == 20
    assert manifest["pooling"]["dense"] == [[40, "GELU"], [96, "ReLU6"], [33, "Identity"]]
    for text in TEXTS:
        want = encoded(model, text)
        assert want.shape == (20,)
        assert_close(compiled.predict(text), want)


def test_layers_are_pooled_where_the_model_gives_them(tmp_path: Path) -> None:
    first = transformer(tmp_path)
    first.model.config.output_hidden_states = True
    layers = modules.WeightedLayerPooling(WIDTH, num_hidden_layers=1, layer_start=0)
    with torch.no_grad():
        layers.layer_weights.copy_(torch.tensor([0.3, 1.9]))
    words = fast_tokenizer("WordPiece").get_vocab()
    vocabulary = sorted(words, key=words.__getitem__)
    weights = modules.WordWeights(vocabulary, {"ada": 3.0, "in": 0.1}, 0.7)
    modes = ("mean", "weightedmean", "mean_sqrt_len_tokens", "cls")
    model = saved([first, layers, weights, modules.Pooling(WIDTH, modes)], tmp_path / "model")
    folder = tmp_path / "model"
    compiled = canao.compile(folder)
    for text in TEXTS:
        assert_close(compiled.predict(text), encoded(model, text))
    patch(folder / "config.json", output_hidden_states=False)
    other = SentenceTransformer(str(folder), device="cpu")
    for text in TEXTS:
        assert_close(in_pytorch(folder, text), encoded(other, text))
    assert np.abs(encoded(other, TEXTS[0]) - encoded(model, TEXTS[0])).max() > 1e-3


@pytest.fixture(scope="module")
def prompted(tmp_path_factory: pytest.TempPathFactory) -> tuple[SentenceTransformer, Any]:
    """All poolings side by side, without the tokens of the prompt."""
    folder = tmp_path_factory.mktemp("prompted")
    modes = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
    parts = [transformer(folder), modules.Pooling(WIDTH, modes, include_prompt=False)]
    parts.append(modules.Dense(6 * WIDTH, 30))
    model = saved(parts, folder / "model", prompts=PROMPTS, default_prompt_name="query")
    return model, canao.compile(folder / "model")


@pytest.mark.parametrize("name", (None, "query", "document", "long", ""))
def test_prompts_that_are_not_pooled(
    prompted: tuple[SentenceTransformer, Any], name: str | None
) -> None:
    model, compiled = prompted
    asked = {"prompt_name": name} if name is not None else {}
    wanted = {"prompt": ""} if name == "" else asked
    for text in (*TEXTS, "word " * 90):
        assert_close(compiled.predict(text, **asked), encoded(model, text, **wanted), str(name))


def test_prompts_by_name(prompted: tuple[SentenceTransformer, Any]) -> None:
    _, compiled = prompted
    assert [i["name"] for i in compiled.artifact.manifest["inputs"]][-1] == "prompt_mask"
    with pytest.raises(canao.InputError, match="no prompt 'passage'; its prompts: document, long"):
        compiled.predict("Ada", prompt_name="passage")
    both = compiled.predict(["Ada", "London"], prompt_name="long")
    np.testing.assert_array_equal(both[1], compiled.predict("London", prompt_name="long"))
    # Without the mask every token is pooled; the third array is the padding mask, as elsewhere.
    ids, types = compiled.encode("Ada worked")
    ones = np.ones_like(ids)
    whole = compiled.run(ids, types)["sentence_embedding"]
    np.testing.assert_array_equal(whole, compiled.run(ids, types, ones)["sentence_embedding"])
    masked = compiled.run(ids, types, prompt_mask=[1, *[0] * (len(ids) - 1)])
    assert np.abs(masked["sentence_embedding"] - whole).max() > 1e-3


def test_prompts_on_the_command_line(
    prompted: tuple[SentenceTransformer, Any],
    canao_command: Callable[..., Any],  # noqa: F811
) -> None:
    model, compiled = prompted
    place = str(compiled.artifact.path)
    for name in ("long", ""):
        done = canao_command("run", place, "Ada", "--prompt-name", name, "--json")
        assert done.returncode == 0, done.stderr
        want = encoded(model, "Ada", prompt=PROMPTS.get(name, ""))
        assert_close(json.loads(done.stdout)["vector"], want)
    done = canao_command("run", place, "Ada", "--prompt-name", "passage")
    assert done.returncode == 2 and "its prompts: document, long, query" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_texts_in_lower_case_and_cut(tmp_path: Path) -> None:
    """Final sigma, capital I with a dot, and special tokens, which are no text."""
    first = transformer(tmp_path, do_lower_case=True, max_seq_length=9)
    settings: dict[str, Any] = {"prompts": PROMPTS, "default_prompt_name": None}
    model = saved([first, modules.Pooling(WIDTH)], tmp_path / "model", **settings)
    patch(tmp_path / "model" / "sentence_bert_config.json", do_lower_case=True, max_seq_length=9)
    model = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    compiled = canao.compile(tmp_path / "model")
    for text in ("ΑΔΑΣ ΣΑΣ", "İstanbul", "ADA [MASK] in London", " ".join(tokens.SENTENCES)):
        assert_close(compiled.predict(text), encoded(model, text), text)
        want = encoded(model, text, prompt_name="long")
        assert_close(compiled.predict(text, prompt_name="long"), want, text)
    # Compiled for fewer tokens than Sentence-Transformers keeps, it cuts nothing unasked.
    with pytest.raises(canao.InputError, match="tokens, the model takes 6"):
        in_pytorch(tmp_path / "model", " ".join(tokens.SENTENCES), longest=6)


def in_pytorch(folder: Path, text: str, longest: int = LONGEST) -> np.ndarray:
    """The vector of a text as it is compiled, computed without compiling it."""
    source = load_directory(folder)
    module = with_embedding(source.module, source.sentence, source.config.hidden_size)
    manifest = {"inputs": [{"name": "input_ids", "limit": 0}], **describe_head(source),
                "files": {"tokenizer.json": file_digest(folder / "tokenizer.json")}}  # fmt: skip
    reader = Reader(SimpleNamespace(manifest=manifest, path=folder, max_length=longest))
    ids = torch.from_numpy(reader.arrays(reader.prepare(text, None, None, {}).windows[0])[0])
    with torch.no_grad():
        vector: np.ndarray = module(ids[None].long())["sentence_embedding"][0].numpy()
    return vector


Change = Callable[[Path], None]


def edit(name: str, drop: tuple[str, ...] = (), **entries: Any) -> Change:
    return lambda folder: patch(folder / name, drop, **entries)


ROOT, BERT = "config_sentence_transformers.json", "sentence_bert_config.json"
POOL, DENSE, NORM = "1_Pooling/config.json", "2_Dense/config.json", "3_Normalize/config.json"
# A change of one entry, and the words of the refusal; without words, the vectors stay those of
# Sentence-Transformers.
CHANGES: tuple[tuple[str, Change, str], ...] = (
    ("similarity", edit(ROOT, similarity_fn_name="dot"), ""),
    ("dimension", edit(ROOT, truncate_dim=7), ""),
    ("more dimensions", edit(ROOT, truncate_dim=700), ""),
    ("no dimension", edit(ROOT, truncate_dim=0), "'truncate_dim' is 0"),
    ("text dimension", edit(ROOT, truncate_dim="7"), "'truncate_dim'"),
    ("default prompt", edit(ROOT, prompts={"q": "Ada in "}, default_prompt_name="q"), ""),
    ("prompt of null", edit(ROOT, prompts={"q": None}, default_prompt_name="q"), ""),
    ("no such prompt", edit(ROOT, default_prompt_name="gone"), "'gone'"),
    ("sparse", edit(ROOT, model_type="SparseEncoder"), "SparseEncoder"),
    ("unknown root", edit(ROOT, pool_twice=True), "'pool_twice'"),
    ("no root", lambda folder: (folder / ROOT).unlink(), ""),
    ("length", edit(BERT, max_seq_length=5), ""),
    ("length of a call", edit(BERT, processing_kwargs={"text": {"max_length": 4}}), ""),
    ("not truncated", edit(BERT, processing_kwargs={"text": {"truncation": False}}), "truncation"),
    ("bare tokens", edit(BERT, processing_kwargs={"text": {"add_special_tokens": False}}),
     "add_special_tokens"),
    ("other head", edit(BERT, transformer_task="fill-mask"), "fill-mask"),
    ("chat", edit(BERT, modality_config={
        "text": {"method": "forward", "method_output_name": "last_hidden_state"},
        "message": {"method": "forward", "method_output_name": "last_hidden_state"}}),
     "chat template"),
    ("pooler", edit(BERT, modality_config={
        "text": {"method": "forward", "method_output_name": "pooler_output"}}), "pooler_output"),
    ("loading", edit(BERT, config_args={"num_hidden_layers": 1}), "num_hidden_layers"),
    ("expansion", edit(BERT, query_expansion={"strategy": "min", "length": 8}), "query_exp"),
    ("unknown text", edit(BERT, cut_at=7), "'cut_at'"),
    ("no settings", lambda folder: (folder / BERT).unlink(), ""),
    ("pooling", edit(POOL, pooling_mode="cls"), ""),
    ("poolings", edit(POOL, pooling_mode=["max"]), ""),
    ("older pooling", edit(POOL, ("pooling_mode",), pooling_mode_max_tokens=True), ""),
    ("default pooling", edit(POOL, ("pooling_mode",)), ""),
    ("two poolings", edit(POOL, pooling_mode_max_tokens=True), "pooling_mode"),
    ("pooling by attention", edit(POOL, pooling_mode="attention"), "'pooling_mode'"),
    ("no prompt to leave out", edit(POOL, include_prompt=False), ""),
    ("unknown pooling", edit(POOL, layers=[3]), "'layers'"),
    ("activation", edit(DENSE, activation_function="torch.nn.modules.activation.ReLU"), ""),
    ("default activation", edit(DENSE, ("activation_function",)), ""),
    ("activation elsewhere", edit(DENSE, activation_function="os.system"), r"'os\.system'"),
    ("activation unknown", edit(DENSE, activation_function="torch.nn.modules.activation.GLU"),
     "GLU"),
    ("no such input", edit(DENSE, module_input_name="pooled"), "'pooled'"),
    ("output elsewhere", edit(DENSE, module_output_name="other"), "is given 48"),
    ("no bias", edit(DENSE, bias=False), r"weight linear\.bias"),
    ("widths are of the weights", edit(NORM, module_input_name="sentence_embedding"), ""),
    ("normalized tokens", edit(NORM, module_input_name="token_embeddings",
                               module_output_name="token_embeddings"), ""),
    ("a vector for each token", edit("2_Dense/config.json", module_input_name="token_embeddings"),
     "of one vector"),
    ("unknown norm", edit(NORM, p=1), "'p'"),
)  # fmt: skip


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Transformer, Pooling, Dense to 24, Normalize, and a Dense of 24 after it."""
    folder = tmp_path_factory.mktemp("plain")
    parts = [transformer(folder), modules.Pooling(WIDTH), modules.Dense(WIDTH, 24),
             modules.Normalize(), modules.Dense(24, 12)]  # fmt: skip
    saved(parts, folder / "model")
    return folder / "model"


@pytest.mark.parametrize(("name", "change", "words"), CHANGES, ids=[c[0] for c in CHANGES])
def test_each_entry_counts_or_is_refused(
    plain: Path, tmp_path: Path, name: str, change: Change, words: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(plain, folder)
    change(folder)
    if words:
        with pytest.raises(canao.CanaoError, match=words) as raised:
            load_model(folder)
        assert "\n" not in str(raised.value) and raised.value.exit_code != 1
        return
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    for text in (*TEXTS, "word " * 90):
        assert_close(in_pytorch(folder, text), encoded(model, text), name)


def test_every_file_is_accounted_for(plain: Path) -> None:
    """Each that Sentence-Transformers wrote for its modules, and each entry."""
    inventory = Inventory(plain)
    assert read_sentence(plain, inventory) is not None
    assert not inventory.refusals
    known = {f.file for f in inventory.findings}
    for place in ("", "1_Pooling/", "2_Dense/", "3_Normalize/", "4_Dense/"):
        for file in (plain / place).glob("*.json"):
            if place or "sentence" in file.name or file.name == "modules.json":
                assert place + file.name in known
    noted = {f.name: f.status for f in inventory.findings}
    assert noted["2_Dense/config.json:activation_function"] == "used"
    assert noted["2_Dense/config.json:in_features"] == "no effect"
    assert noted["modules.json:1.type"] == "used"
    # Vouched for by the user.
    (plain / "2_Dense" / "notes.bin2").write_bytes(b"")
    try:
        refused = Inventory(plain)
        with pytest.raises(canao.UnsupportedError, match=r"notes\.bin2"):
            read_sentence(plain, refused)
        ignoring = Inventory(plain, ["2_Dense/notes.bin2"])
        assert read_sentence(plain, ignoring) is not None and not ignoring.refusals
    finally:
        (plain / "2_Dense" / "notes.bin2").unlink()


def listed(folder: Path, *types: str, **more: Any) -> None:
    entries = [{"idx": i, "name": str(i), "path": "", "type": kind, **more}
               for i, kind in enumerate(types)]  # fmt: skip
    (folder / "modules.json").write_text(json.dumps(entries))


LISTS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("custom_st.Transformer", "sentence_transformers.models.Pooling"), r"custom_st\.Transformer"),
    (("sentence_transformers.evil.Pooling",), r"evil\.Pooling' is none of"),
    (("sentence_transformers.models.Transformer", "pylate.models.Dense.Dense"), "pylate"),
    (("sentence_transformers.models.Transformer", "sentence_transformers.models.Whiten"), "Whiten"),
    (("sentence_transformers.base.modules.router.Router",), "module Router"),
    (("sentence_transformers.models.Asym",), "module Asym"),
    (("sentence_transformers.models.CLIPModel.CLIPModel",), "module CLIPModel"),
    (("sentence_transformers.models.WordEmbeddings", "sentence_transformers.models.LSTM"),
     "module WordEmbeddings"),
    (("sentence_transformers.models.BoW",), "module BoW"),
    (("sentence_transformers.models.Transformer",
      "sentence_transformers.multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask"),
     "MultiVectorMask"),
    (("sentence_transformers.models.Transformer",
      "sentence_transformers.cross_encoder.modules.logit_score.LogitScore"), "LogitScore"),
    (("sentence_transformers.models.Pooling", "sentence_transformers.models.Transformer"),
     "modules Pooling, Transformer"),
    (("sentence_transformers.models.Transformer",), "no Pooling"),
)  # fmt: skip


@pytest.mark.parametrize(("types", "words"), LISTS, ids=[case[1] for case in LISTS])
def test_modules_that_are_refused(
    plain: Path, tmp_path: Path, types: tuple[str, ...], words: str
) -> None:
    """Before anything else of the directory is missed."""
    folder = tmp_path / "model"
    shutil.copytree(plain, folder)
    listed(folder, *types)
    if "Pooling" not in words:
        (folder / "config.json").unlink()
    for load in (load_tokenizer, load_model):
        if words == "no Pooling" and load is load_tokenizer:
            continue
        with pytest.raises(canao.UnsupportedError, match=words) as raised:
            load(folder)
        assert "\n" not in str(raised.value)


def test_lists_that_are_damaged(plain: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(plain, folder)
    good = "sentence_transformers.models.Transformer", "sentence_transformers.models.Pooling"
    wrong = (({"name": "0"}, "called '0'"), ({"path": "/etc"}, "leaves the directory"),
             ({"path": 3}, "no type or no path"), ({"type": None}, "no type"))  # fmt: skip
    for more, words in wrong:
        listed(folder, *good, **more)
        with pytest.raises(canao.InputError, match=words):
            load_model(folder)
    (folder / "modules.json").unlink()
    with pytest.raises(canao.UnsupportedError, match=r"belongs to modules\.json"):
        load_model(folder)


def test_names_of_classes_of_all_versions(plain: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(plain, folder)
    for places in (("models", "models"), ("models.Transformer", "models.Pooling"),
                   ("base.modules.transformer", "sentence_transformer.modules.pooling"),
                   ("sentence_transformer.modules", "sentence_transformer.modules")):  # fmt: skip
        first, second = (f"sentence_transformers.{place}" for place in places)
        listed(folder, f"{first}.Transformer", f"{second}.Pooling")
        entries = json.loads((folder / "modules.json").read_text())
        entries[1]["path"] = "1_Pooling"
        (folder / "modules.json").write_text(json.dumps(entries))
        assert read_sentence(folder).pooling == ("mean",)


def test_other_models_of_sentence_transformers(tmp_path: Path) -> None:
    """As it saves them: a table of words, and sparse vectors."""
    tokenizer = fast_tokenizer("WordPiece")
    static = modules.StaticEmbedding(tokenizer.backend_tokenizer, embedding_dim=16)
    SentenceTransformer(modules=[static], device="cpu").save(str(tmp_path / "static"))
    save_model("ForMaskedLM", tmp_path / "mlm")
    sparse = SparseEncoder(
        modules=[MLMTransformer(str(tmp_path / "mlm")), SpladePooling("max")], device="cpu"
    )
    sparse.save(str(tmp_path / "sparse"))
    for name, words in (("static", "StaticEmbedding"), ("sparse", "SpladePooling|MLMTransformer")):
        with pytest.raises(canao.UnsupportedError, match=words):
            canao.compile(tmp_path / name, out=tmp_path / "out")
        assert not (tmp_path / "out").exists()

"""The inventory of a model directory: files, entries of config.json and weights that CANAO does not
understand are refused by name, and what it leaves out is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from canao.artifact.reading import MAX_DEPTH, parse_json, read_bytes, read_json
from canao.compiler.loading import inventory_of, load_model
from canao.compiler.pipeline import compile_model
from canao.errors import CanaoError, InputError, UnsupportedError
from canao.model.directory.config import read_config
from canao.model.directory.loaded_model import load_directory
from canao.model.inventory.inventory import Inventory
from canao.model.inventory.table import INERT, REFUSED, USED, Table, inert, refused, used
from canao.model.inventory.tables.config import CONFIG, UNREAD
from tests.compiler.families import FAMILIES, make
from tests.heads import save_model

CLASSIFIER, TAGGER = "ForSequenceClassification", "ForTokenClassification"
Weights, Config = dict[str, torch.Tensor], dict[str, Any]
Edit = Callable[[Weights, Config, Path], object]


def edited(folder: Path, head: str, edit: Edit) -> Path:
    save_model(head, folder)
    weights = load_file(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    edit(weights, config, folder)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def _second_layer(weights: Weights, config: Config, folder: Path) -> None:
    for name in [n for n in weights if ".layer.0." in n]:
        weights[name.replace(".layer.0.", ".layer.1.")] = weights[name].clone()


def _with(**entries: object) -> Edit:
    return lambda weights, config, folder: config.update(entries)


def _file(name: str, content: str = "{}") -> Edit:
    def edit(weights: Weights, config: Config, folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)

    return edit


REFUSALS: dict[str, tuple[str, Edit, str]] = {
    "weights of a layer that a tagger has not": (
        TAGGER, lambda w, c, f: w.update({"crf.transitions": torch.zeros(5, 5)}),
        r"no place for weight crf\.transitions"),
    "relative positions": (
        CLASSIFIER, lambda w, c, f: w.update({"bert.distance_embedding.weight": torch.ones(9, 4)}),
        r"no place for weight bert\.distance_embedding\.weight"),
    "a layer beyond the last": (CLASSIFIER, _second_layer, r"no place for weight .*layer\.1\."),
    "a count of layers that is too small": (
        CLASSIFIER, _with(num_hidden_layers=0), r"layer"),
    "NaN": (CLASSIFIER, lambda w, c, f: w["classifier.weight"][0].fill_(float("nan")),
            r"weight classifier\.weight holds NaN values \(48 of 96\)"),
    "infinity": (CLASSIFIER, lambda w, c, f: w["classifier.bias"].fill_(float("inf")),
                 r"weight classifier\.bias holds infinite values \(2 of 2\)"),
    "a head without its class": (CLASSIFIER, lambda w, c, f: c.pop("architectures"),
                                 r"names no architecture, and the checkpoint has a head"),
    "two classes": (CLASSIFIER, _with(architectures=["BertModel", "BertForMaskedLM"]),
                    r"architectures names BertModel, BertForMaskedLM; keep the one"),
    "a class of another family": (
        CLASSIFIER, _with(architectures=["RobertaForSequenceClassification"]),
        r"belongs to model_type 'roberta', not to 'bert'"),
    "a class that is none": (CLASSIFIER, _with(architectures=["os.system"]),
                             r"architecture 'os\.system' is not one that Transformers has"),
    "a family that is none": (CLASSIFIER, _with(model_type="own"), r"model_type 'own' is none"),
    "no family": (CLASSIFIER, lambda w, c, f: c.pop("model_type"), r"names no model_type"),
    "an unknown entry": (CLASSIFIER, _with(attention_sharpening=2.5),
                         r"'attention_sharpening' \(2\.5\) is not known to CANAO"),
    "relative position type": (CLASSIFIER, _with(position_embedding_type="relative_key"),
                               r"'position_embedding_type' is \"relative_key\".*ONNX"),
    "pruned heads": (CLASSIFIER, _with(pruned_heads={"0": [1]}), r"'pruned_heads' is .*ONNX"),
    "quantized": (CLASSIFIER, _with(quantization_config={"bits": 4}), r"dequantize"),
    "code elsewhere": (CLASSIFIER, _with(auto_map={"AutoModel": "a--b.C"}), r"runs no code"),
    "labels with a gap": (CLASSIFIER, _with(id2label={"0": "a", "2": "b"}),
                          r"'id2label' has 2 labels and a key \"2\"; number them 0 to 1"),
    "labels from 1": (CLASSIFIER, _with(id2label={"1": "a", "2": "b"}), r"number them 0 to 1"),
    "a label twice": (CLASSIFIER, _with(id2label={"0": "a", "1": "a"}), r"\"a\" to two labels"),
    "no labels": (CLASSIFIER, _with(id2label={}), r"'id2label' is empty"),
    "labels that contradict": (
        CLASSIFIER, _with(id2label={"0": "a", "1": "b"}, label2id={"a": 1, "b": 0}),
        r"'label2id' says \{\"a\": 1\} and id2label does not"),
    "another number of labels": (CLASSIFIER, _with(id2label={"0": "a", "1": "b"}, num_labels=3),
                                 r"'num_labels' is 3 and id2label has 2 names"),
    "an unknown problem": (CLASSIFIER, _with(problem_type="ranking"), r"'problem_type'"),
    "an adapter beside it": (CLASSIFIER, _file("adapter_config.json"), r"adapter; merge it"),
    "a tokenizer's code": (CLASSIFIER, _file("tokenization_own.py", ""),
                           r"tokenization_own\.py: it is a tokenizer of the model's own"),
    "code": (CLASSIFIER, _file("modeling_own.py", ""), r"modeling_own\.py: CANAO runs no code"),
    "a head as a pickle": (CLASSIFIER, _file("model_head.pkl"), r"pickle, which is never opened"),
    "settings of the future": (CLASSIFIER, _file("attention_config.json"),
                               r"attention_config\.json: no file of this name is known"),
    "weights of the future": (CLASSIFIER, _file("extra.safetensors"), r"extra\.safetensors: no "),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_what_is_not_understood_is_refused_by_name(name: str, tmp_path: Path) -> None:
    head, edit, message = REFUSALS[name]
    model = edited(tmp_path / "model", head, edit)
    with pytest.raises(CanaoError, match=message) as said:
        compile_model(model, tmp_path / "out")
    assert "\n" not in str(said.value) and str(model) in str(said.value)
    assert not (tmp_path / "out").exists()


def test_what_is_left_out_is_told_with_its_reason(tmp_path: Path) -> None:
    def edit(weights: Weights, config: Config, folder: Path) -> None:
        config.update(output_hidden_states=True, return_dict=False, gradient_checkpointing=True,
                      finetuning_task="mnli", use_cache=False, max_length=20)  # fmt: skip
        for name in ("README.md", "pytorch_model.bin", "training_args.bin", ".gitattributes"):
            (folder / name).write_text("x")
        (folder / "runs").mkdir()

    model = edited(tmp_path / "model", CLASSIFIER, edit)
    inventory = inventory_of(model)
    loaded, graph = load_model(model, inventory=inventory)
    told = {f.name: f.note for f in inventory.left_out}
    assert told["config.json:hidden_dropout_prob"] == "counts in training only"
    assert "generation_config.json" in told["config.json:max_length"]
    others = {"README.md", "pytorch_model.bin", "training_args.bin", ".gitattributes", "runs",
              "config.json:finetuning_task", "config.json:output_hidden_states"}  # fmt: skip
    assert others <= set(told)
    assert [name for name, _ in graph.outputs] == ["logits"]
    assert "config.json:hidden_act" not in told and loaded.kind.endswith(CLASSIFIER)


def test_weights_of_another_head_have_no_effect_and_are_told(tmp_path: Path) -> None:
    model = edited(tmp_path, "ForPreTraining", _with(architectures=["BertForMaskedLM"]))
    inventory = Inventory(model)
    load_directory(model, inventory)
    told = {f.entry: f.note for f in inventory.left_out if f.file == "model.safetensors"}
    assert set(told) == {"bert.pooler.dense.weight", "bert.pooler.dense.bias",
                         "cls.seq_relationship.weight", "cls.seq_relationship.bias"}  # fmt: skip


def test_a_pooler_that_the_checkpoint_lacks_gives_no_output(tmp_path: Path) -> None:
    def edit(weights: Weights, config: Config, folder: Path) -> None:
        for name in [n for n in weights if "pooler" in n]:
            del weights[name]

    _, graph = load_model(edited(tmp_path, "Model", edit))
    assert [name for name, _ in graph.outputs] == ["last_hidden_state"]


def test_all_refusals_are_collected(tmp_path: Path) -> None:
    model = edited(tmp_path, CLASSIFIER, _with(one_of_these=1, another_of_these=2))
    said = r"one_of_these.*\(1 more: see `canao inspect`\)"
    with pytest.raises(UnsupportedError, match=said) as error:
        load_directory(model)
    assert len(error.value.refusals) == 2 and "another_of_these" in error.value.refusals[1]


def test_what_the_user_vouches_for_is_left_out(tmp_path: Path) -> None:
    def edit(weights: Weights, config: Config, folder: Path) -> None:
        config["of_the_future"] = 1
        (folder / "extra.json").write_text("{}")
        weights.update({"crf.a": torch.zeros(2), "crf.b": torch.zeros(2)})

    model = edited(tmp_path / "model", TAGGER, edit)
    ignored = ("config.json:of_the_future", "extra.json", "model.safetensors:crf.*")
    artifact = compile_model(model, tmp_path / "out", ignored=ignored, tuned=False)
    told = dict(artifact.manifest["left_out"])
    assert [told[name] for name in (*ignored[:2], "model.safetensors:crf.a")] == (
        ["ignored on request"] * 3
    )
    with pytest.raises(InputError, match=r"--ignore nothing\.json: nothing of this name is ref"):
        compile_model(model, tmp_path / "out", ignored=(*ignored, "nothing.json"), tuned=False)


@pytest.mark.parametrize("full", [False, True], ids=["differences", "all entries"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_entry_that_transformers_writes_is_understood(
    family: str, full: bool, tmp_path: Path
) -> None:
    config = make(family).config
    config.architectures = [f"{family}Model"]
    (tmp_path / "config.json").write_text(config.to_json_string(use_diff=not full))
    inventory = Inventory(tmp_path)
    read_config(tmp_path, inventory)
    assert inventory.refusals == ()


def test_an_entry_counts_if_the_family_reads_it(tmp_path: Path) -> None:
    def status(kind: str, **entries: object) -> dict[str, str]:
        config = getattr(transformers, f"{kind}Config")(num_hidden_layers=1, vocab_size=33)
        form = {**config.to_dict(), "architectures": [f"{kind}Model"], **entries}
        (tmp_path / "config.json").write_text(json.dumps(form))
        inventory = Inventory(tmp_path)
        read_config(tmp_path, inventory)
        return {f.entry: f.status for f in inventory.findings}

    assert status("Esm", position_embedding_type="rotary")["position_embedding_type"] == USED
    assert status("Bert", position_embedding_type="absolute")["position_embedding_type"] == INERT
    assert status("Bert", embedding_size=128)["embedding_size"] == REFUSED
    assert status("Electra", embedding_size=128)["embedding_size"] == USED
    assert status("GPT2", n_embd=32)["n_embd"] == USED


def test_tables_give_a_reason_for_every_entry() -> None:
    for table in (CONFIG, UNREAD):
        for name, entry in {**table.entries, **table.patterns}.items():
            assert entry.does and "\n" not in entry.does, name
            assert entry.only is None or entry.remedy or len(entry.only) == 1, name


def test_a_table_judges_type_and_value(tmp_path: Path) -> None:
    table = Table({"a": used("x", int), "b": inert("y", bool, only=(True,), remedy="mend it"),
                   "c": refused("leave it")}, {r"d\d": inert("z")})  # fmt: skip

    def judged(**entries: object) -> dict[str, str]:
        inventory = Inventory(tmp_path)
        kept = inventory.settings(tmp_path / "f.json", table, values=entries)
        found = {f.entry: f"{f.status}: {f.note}" for f in inventory.findings if f.entry}
        assert kept == {k: v for k, v in entries.items() if found[k].startswith(USED)}
        return found

    found = judged(a=3, b=True, d1="x")
    assert found == {"a": "used: x", "b": "no effect: y", "d1": "no effect: z"}
    found = judged(a="3", b=1, c=0, d="?")
    assert found["a"] == "refused: 'a' expected int, got str; correct it"
    assert found["b"] == "refused: 'b' expected bool, got int; correct it"
    assert judged(b=False)["b"] == "refused: 'b' is false, and only true is understood; mend it"
    assert found["c"].startswith("refused: 'c' (0) is not supported; leave it")
    assert "'d' (\"?\") is not known" in found["d"] and "--ignore f.json:d" in found["d"]


BAD_JSON = {
    "a key twice": (b'{"a": 1, "a": 2}', r"key \"a\" stands twice"),
    "NaN": (b'{"a": NaN}', r"NaN is no number"),
    "infinity": (b'{"a": -Infinity}', r"-Infinity is no number"),
    "half a pair": (b'{"a": "\\ud800"}', r"surrogates not allowed"),
    "half a pair as a key": (b'{"\\ud800": 1}', r"surrogates not allowed"),
    "deep": (b'{"a":' * (MAX_DEPTH + 2) + b"1" + b"}" * (MAX_DEPTH + 2), r"nested deeper than 64"),
    "very deep": (b"[" * 100_000, r"nested too deeply|cannot be read as JSON"),
    "a number of many digits": (b'{"a": ' + b"9" * 5000 + b"}", r"cannot be read as JSON"),
    "no UTF-8": (b'{"a": "\xff"}', r"cannot be read as JSON"),
    "a list": (b"[]", r"expected object, got array"),
    "nothing": (b"", r"cannot be read as JSON"),
    "more than one value": (b"{} {}", r"cannot be read as JSON"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_JSON)
def test_json_that_means_nothing_certain_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    data, message = BAD_JSON[name]
    file = tmp_path / "settings.json"
    file.write_bytes(data)
    with pytest.raises(InputError, match=message) as said:
        read_json(file, remedy="write it anew")
    assert "\n" not in str(said.value) and str(said.value).endswith("write it anew")
    assert str(said.value).startswith(str(file)) and len(str(said.value)) < 400


def test_json_fits_a_schema_or_says_where_it_does_not() -> None:
    assert parse_json(b'\xef\xbb\xbf{"a": [1, 2]}', "x", dict[str, list[int]]) == {"a": [1, 2]}
    with pytest.raises(InputError, match=r"x: '\[\.\.\.\]\[1\]' expected int, got str; restore"):
        parse_json('{"a": [1, "2"]}', "x", dict[str, list[int]])


def test_only_regular_files_of_a_limited_size_are_read(tmp_path: Path) -> None:
    import os

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path, Path("/dev/zero")):
        with pytest.raises(InputError, match=r"not a regular file|Is a directory"):
            read_bytes(path)
    with pytest.raises(InputError, match=r"No such file"):
        read_bytes(tmp_path / "none")
    (tmp_path / "large").write_bytes(b"12345")
    assert read_bytes(tmp_path / "large", limit=5) == b"12345"
    with pytest.raises(InputError, match=r"has more than 4 bytes"):
        read_bytes(tmp_path / "large", limit=4)

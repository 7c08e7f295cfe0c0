"""What lies beside an .onnx file, in the layouts of its exporters: it is taken along, and said
where from; what cannot be made sense of is refused by name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from canao.compiler.loading import load_model, load_tokenizer
from canao.errors import CanaoError, InputError, UnsupportedError
from canao.model.directory.loaded_model import load_directory
from canao.model.directory.onnx_sidecar import LoadedOnnxModel, read_sidecar, root
from canao.model.directory.task import describe_head
from canao.model.inventory.inventory import Inventory
from tests.tokens import save, wordpiece

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper  # noqa: E402

from tests.compiler.test_onnx_files import lookup, model  # noqa: E402

_CLASSIFIER = {
    "model_type": "bert", "architectures": ["BertForSequenceClassification"],
    "id2label": {"0": "sad", "1": "glad", "2": "so-so"}, "hidden_size": 4,
}  # fmt: skip
_PARTS = (("", "Transformer"), ("1_Pooling", "Pooling"))
_MODULES = [{"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (path, kind) in enumerate(_PARTS)]  # fmt: skip


def write(path: Path, *, outputs: tuple[tuple[str, int], ...] = (("logits", 3),),
          pooled: bool = True, **parts: Any) -> Path:  # fmt: skip
    """A model whose outputs have these names and columns, one row for a text or for each token."""
    nodes, tensors = lookup(400)
    nodes.append(helper.make_node("ReduceMean", ["x"], ["m"], axes=[1], keepdims=0) if pooled
                 else helper.make_node("Identity", ["x"], ["m"]))  # fmt: skip
    for name, columns in outputs:
        weight = np.arange(4 * columns, dtype=np.float32).reshape(4, columns) / 10
        tensors.append((f"{name}.w", weight))
        nodes.append(helper.make_node("MatMul", ["m", f"{name}.w"], [name]))
    ids = ("input_ids", TensorProto.INT64, [1, "s"])
    proto = model(nodes, parts.get("inputs", (ids,)), [*tensors, *parts.get("tensors", ())],
                  result=outputs[0][0])  # fmt: skip
    for name, _ in outputs[1:]:
        proto.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [None]))
    for key, value in parts.get("metadata", {}).items():
        proto.metadata_props.add(key=key, value=value)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(proto.SerializeToString())
    return path


def settings(folder: Path, held: Any = _CLASSIFIER, name: str = "config.json") -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(held))


def loaded(path: Path, inventory: Inventory | None = None) -> LoadedOnnxModel:
    found, _ = load_model(path, 16, inventory)
    assert isinstance(found, LoadedOnnxModel)
    return found


def refused(path: Path, *words: str) -> None:
    with pytest.raises(CanaoError, match=re.escape(words[0])) as error:
        load_model(path, 16)
    text = str(error.value)
    assert "\n" not in text and all(word in text for word in words), text


@pytest.mark.parametrize("layout", ["beside", "above", "above, from inside"])
def test_tokenizer_and_labels(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / ("model.onnx" if layout == "beside" else "onnx/model.onnx"))
    settings(tmp_path)
    save(wordpiece(), tmp_path)
    if layout == "above, from inside":
        monkeypatch.chdir(path.parent)
        path = Path("model.onnx")
    found = loaded(path)
    assert describe_head(found)["labels"] == ["sad", "glad", "so-so"]
    assert found.path is not None and found.path.resolve() == tmp_path.resolve()
    tokenizer = load_tokenizer(path)
    assert tokenizer is not None and tokenizer.ids > 50
    assert Path(found.beside["labels"]).resolve() == (tmp_path / "config.json").resolve()


def test_pooling_of_sentence_transformers(tmp_path: Path) -> None:
    path = write(tmp_path / "onnx/model.onnx", outputs=(("last_hidden_state", 4),), pooled=False)
    settings(tmp_path, {"model_type": "bert", "architectures": ["BertModel"]})
    settings(tmp_path, _MODULES, "modules.json")
    settings(tmp_path / "1_Pooling",
             {"word_embedding_dimension": 4, "pooling_mode_mean_tokens": True})  # fmt: skip
    save(wordpiece(), tmp_path)
    found = loaded(path)
    head = describe_head(found, ["last_hidden_state"])
    assert head["task"] == "sentence-embedding" and head["pooling"]["modes"] == ["mean"]
    assert found.beside["pooling"] == str(tmp_path / "modules.json")


def test_its_own_folder_comes_first(tmp_path: Path) -> None:
    path = write(tmp_path / "onnx/model.onnx")
    settings(tmp_path, {**_CLASSIFIER, "id2label": {"0": "x", "1": "y", "2": "z"}})
    settings(tmp_path / "onnx")
    assert describe_head(loaded(path))["labels"] == ["sad", "glad", "so-so"]


def test_other_folders_are_not_looked_into(tmp_path: Path) -> None:
    """A file in a folder of another name has nothing to do with what lies above."""
    path = write(tmp_path / "exported/model.onnx")
    settings(tmp_path)
    save(wordpiece(), tmp_path)
    found = loaded(path)
    assert found.path is None and found.kind == "onnx" and root(path) == tmp_path / "exported"
    assert found.beside["tokenizer"] == f"none; looked in {tmp_path / 'exported'}"


def test_what_was_taken_from_where_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from canao.cli.app import main

    path = write(tmp_path / "onnx/model.onnx")
    settings(tmp_path)
    monkeypatch.setattr("sys.argv", ["canao", "inspect", str(path), "--max-length", "16"])
    with pytest.raises(SystemExit) as left:
        main()
    shown = capfd.readouterr().out
    assert left.value.code == 0
    assert f"labels: {tmp_path / 'config.json'}" in shown
    assert f"tokenizer: none; looked in {tmp_path / 'onnx'} and {tmp_path}" in shown


def test_a_directory_with_onnx_files_only(tmp_path: Path) -> None:
    settings(tmp_path)
    for name in ("model.onnx", "model_quantized.onnx"):
        write(tmp_path / "onnx" / name)
    with pytest.raises(InputError, match=r"model\.onnx, .*model_quantized\.onnx") as error:
        load_directory(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("held", "words"), [
    ({**_CLASSIFIER, "id2label": {"0": "no", "1": "yes"}}, ("2 labels", "3 columns", "logits")),
    ({**_CLASSIFIER, "id2label": None}, ("2 labels", "3 columns")),
    ({**_CLASSIFIER, "id2label": {"1": "a", "2": "b", "3": "c"}}, ("number them 0 to 2",)),
    ({**_CLASSIFIER, "id2label": {"0": "a", "1": "a", "2": "c"}}, ("two labels",)),
    ({**_CLASSIFIER, "id2label": ["a", "b", "c"]}, ("'id2label'",)),
    ({**_CLASSIFIER, "num_labels": 4}, ("num_labels is 4", "3 names")),
    ({**_CLASSIFIER, "id2label": None, "num_labels": 10**9}, ("num_labels is 1000000000",)),
    ({**_CLASSIFIER, "architectures": "BertModel"}, ("'architectures'",)),
])  # fmt: skip
def test_a_config_json_that_does_not_fit(held: Any, words: tuple[str, ...], tmp_path: Path) -> None:
    path = write(tmp_path / "onnx/model.onnx")
    settings(tmp_path, held)
    refused(path, "config.json", *words)


def test_what_only_the_graph_decides_is_left_out_of_config_json(tmp_path: Path) -> None:
    path = write(tmp_path / "model.onnx")
    settings(tmp_path, {**_CLASSIFIER, "num_hidden_layers": -1, "pruned_heads": {"0": [1]},
                        "of_tomorrow": True})  # fmt: skip
    inventory = Inventory(tmp_path)
    loaded(path, inventory)
    notes = {f.entry: f.note for f in inventory.findings if f.file == "config.json"}
    assert notes["of_tomorrow"] == notes["pruned_heads"] == "the computation is in the .onnx file"
    assert not inventory.refusals


@pytest.mark.parametrize("name", ["tokenizer.model", "spiece.model", "vocab.txt"])
def test_a_vocabulary_alone(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "onnx/model.onnx")
    (tmp_path / name).write_bytes(b"[UNK]\n[CLS]\n[SEP]\nhello\n")
    refused(path, name, "tokenizer.json")
    with pytest.raises(CanaoError, match=r"tokenizer\.json"):
        load_tokenizer(path)


@pytest.mark.parametrize(("kind", "outputs", "first"), [
    ("BertForSequenceClassification", (("hidden", 4), ("logits", 3)), "logits"),
    ("BertForSequenceClassification", (("hidden", 4), ("probabilities", 3)), "probabilities"),
    ("BertForSequenceClassification", (("hidden", 4), ("answer", 3)), "answer"),
    ("BertForSequenceClassification", (("answer", 3),), "answer"),
    ("BertForQuestionAnswering", (("end_logits", 1), ("start_logits", 1)), "start_logits"),
    ("BertModel", (("pooler_output", 4), ("last_hidden_state", 4)), "last_hidden_state"),
])  # fmt: skip
def test_the_output_that_the_task_reads(
    kind: str, outputs: tuple[tuple[str, int], ...], first: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "model.onnx", outputs=outputs)
    settings(tmp_path, {**_CLASSIFIER, "architectures": [kind]})
    found, graph = load_model(path, 16)
    assert graph.outputs[0][0] == first
    assert {name for name, _ in graph.outputs} == {name for name, _ in outputs}


@pytest.mark.parametrize(("kind", "outputs"), [
    ("BertForSequenceClassification", (("one", 3), ("other", 3))),
    ("BertForQuestionAnswering", (("begin", 1), ("stop", 1))),
    ("BertForMaskedLM", (("one", 4), ("other", 4))),
])  # fmt: skip
def test_outputs_of_which_none_is_known(
    kind: str, outputs: tuple[tuple[str, int], ...], tmp_path: Path
) -> None:
    path = write(tmp_path / "model.onnx", outputs=outputs)
    settings(tmp_path, {**_CLASSIFIER, "architectures": [kind]})
    refused(path, *(name for name, _ in outputs), kind, "logits")


def test_parts_without_effect_are_said(tmp_path: Path) -> None:
    names = ("input_ids", "attention_mask", "position_ids", "token_type_ids")
    inputs = [(name, TensorProto.INT64, [1, "s"]) for name in names]
    path = write(tmp_path / "model.onnx", inputs=inputs, metadata={"author": "somebody"},
                 tensors=[("lonely", np.ones(3, np.float32))])  # fmt: skip
    (tmp_path / "model.safetensors").write_bytes(b"")
    inventory = Inventory(tmp_path)
    load_model(path, 16, inventory)
    notes = {f.name: f.note for f in inventory.findings}
    assert "nothing is padded" in notes["model.onnx:input attention_mask"]
    assert "0, 1, 2" in notes["model.onnx:input position_ids"]
    assert "no operator reads" in notes["model.onnx:input token_type_ids"]
    assert "no operator reads" in notes["model.onnx:weights lonely"]
    assert "record" in notes["model.onnx:metadata author"]
    assert "another form" in notes["model.safetensors"]


@pytest.mark.parametrize(("name", "shape", "word"), [
    ("past_key_values.0.key", [1, 2, "p", 4], "without a cache"),
    ("decoder_input_ids", [1, "s"], "export the encoder alone"),
    ("encoder_hidden_states", [1, "s", 4], "export the encoder alone"),
    ("pixel_values", [1, 3, 8, 8], "takes images"),
    ("inputs_embeds", [1, "s", 4], "export the model with input_ids"),
])  # fmt: skip
def test_inputs_of_other_models(name: str, shape: list[Any], word: str, tmp_path: Path) -> None:
    kind = TensorProto.INT64 if len(shape) == 2 else TensorProto.FLOAT
    ids = ("input_ids", TensorProto.INT64, [1, "s"])
    refused(write(tmp_path / "model.onnx", inputs=[ids, (name, kind, shape)]), f"'{name}'", word)


def test_labels_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    config = {"architectures": ["BertForSequenceClassification"], "model_type": "bert",
              "id2label": {"0": "a", "1": "b"}, "label2id": {"a": 1, "b": 0}}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedError, match=r"'label2id' says .* and id2label does not"):
        read_sidecar(tmp_path / "model.onnx", {"logits": 2})

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_bert import save_tiny
from transformers import AlbertConfig, AutoModelForSequenceClassification

from canao.errors import InputError, UnsupportedError
from canao.model import hf
from canao.model.arch import Arch
from canao.model.inventory.inventory import Inventory

LABELS = ("neg", "neutral", "pos")


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny, tmp_path / "model"))


@pytest.fixture
def tuned(tiny: Path, tmp_path: Path) -> Path:
    torch.manual_seed(1)
    hf.save_model(hf.load_classifier(tiny, LABELS), hf.load_tokenizer(tiny), tmp_path / "tuned")
    return tmp_path / "tuned"


def edit(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refused(
    action: Callable[[], object], message: str, kind: type[Exception] = InputError
) -> None:
    with pytest.raises(kind) as caught:
        action()
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_shape_and_students_configuration(tiny: Path) -> None:
    config = hf.load_config(tiny)
    assert hf.arch_of(config) == Arch.uniform(3, 32, 4, 64)
    student = hf.student_config(config, Arch.uniform(2, 24, 3, 40))
    assert hf.arch_of(student) == Arch.uniform(2, 24, 3, 40)
    assert student.vocab_size == config.vocab_size and student._name_or_path == ""
    assert hf.arch_of(config) == Arch.uniform(3, 32, 4, 64)


def test_saved_model_is_what_transformers_reads(tiny: Path, tuned: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(tuned, local_files_only=True).eval()
    assert model.config.id2label == dict(enumerate(LABELS))
    tokens = hf.load_tokenizer(tuned)("a good film", return_tensors="pt")
    ours = hf.load_classifier(tuned, LABELS)
    assert torch.equal(model(**tokens).logits, ours(**tokens).logits)
    assert str(tiny) not in (tuned / "config.json").read_text()
    assert {p.name for p in tuned.iterdir()} >= {"model.safetensors", "tokenizer.json"}


def test_a_head_is_kept_only_for_its_labels(tiny: Path, tuned: Path) -> None:
    assert not hf.is_fine_tuned(tiny, LABELS)
    assert hf.is_fine_tuned(tuned, LABELS)
    assert hf.is_fine_tuned(tuned, ("0", "1", "2"))
    assert not hf.is_fine_tuned(tuned, ("neg", "pos"))
    assert not hf.is_fine_tuned(tuned, ("red", "green", "blue"))
    assert not hf.is_fine_tuned(tuned, ())
    generic = ["LABEL_0", "LABEL_1", "LABEL_2"]
    edit(tuned, id2label=dict(enumerate(generic)), label2id={n: i for i, n in enumerate(generic)})
    assert hf.is_fine_tuned(tuned, ("red", "green", "blue"))


def test_a_heads_rows_follow_the_datas_order(tuned: Path) -> None:
    plain, turned = hf.load_classifier(tuned, LABELS), hf.load_classifier(tuned, LABELS[::-1])
    rows = hf.parts_of(plain).head.weight.flip(0)
    assert torch.equal(hf.parts_of(turned).head.weight, rows)
    assert turned.config.id2label[0] == "pos"


def test_a_new_head_for_values(tuned: Path) -> None:
    model = hf.load_classifier(tuned, ())
    assert (model.config.num_labels, model.config.problem_type) == (1, "regression")


def test_missing_parts_are_named(tmp_path: Path, copy: Path) -> None:
    refused(lambda: hf.load_config(tmp_path), "no config.json; give a Hugging Face model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (copy / name).unlink()
    refused(lambda: hf.load_tokenizer(copy), "no tokenizer (tokenizer.json or vocab.txt)")
    (copy / "model.safetensors").unlink()
    refused(lambda: hf.load_classifier(copy, LABELS), "no model.safetensors")
    (copy / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    refused(lambda: hf.load_classifier(copy, LABELS), "only pickled weights")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "expected object, got array"),
        ('{"model_type": "bert", "hidden_size": "wide"}', "'hidden_size'"),
        ('{"model_type": "bert", "hidden_size": 30, "num_attention_heads": 4}', "hidden 30"),
        ('{"model_type": "bert", "num_hidden_layers": 0}', "'num_hidden_layers' is 0"),
    ],
)
def test_odd_configurations(copy: Path, content: str, message: str) -> None:
    (copy / "config.json").write_text(content)
    refused(lambda: hf.load_config(copy), message)


def test_other_families_are_not_searched(tmp_path: Path, copy: Path) -> None:
    AlbertConfig().save_pretrained(tmp_path)
    refused(lambda: hf.load_config(tmp_path), "'albert'; search needs", UnsupportedError)
    edit(copy, is_decoder=True)
    refused(lambda: hf.load_config(copy), "a decoder", UnsupportedError)


def test_damaged_weights(copy: Path) -> None:
    path = copy / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused(lambda: hf.load_classifier(copy, LABELS), "damaged (")
    path.write_bytes(b"")
    refused(lambda: hf.is_fine_tuned(copy, LABELS), "damaged (")


def test_weights_of_another_shape_or_none(copy: Path) -> None:
    path = copy / "model.safetensors"
    tensors = load_file(path)
    edit(copy, intermediate_size=48)
    refused(lambda: hf.load_classifier(copy, LABELS), "belongs to another model")
    edit(copy, intermediate_size=64)
    lost = "encoder.layer.1.output.dense.weight"
    save_file({n: t for n, t in tensors.items() if n != lost}, path, metadata={"format": "pt"})
    refused(lambda: hf.load_classifier(copy, LABELS), f"such as bert.{lost}")


def test_damaged_tokenizer(copy: Path) -> None:
    path = copy / "tokenizer.json"
    odd = json.loads(path.read_text()) | {"normalizer": {"type": "Odd"}}
    for content, words in (
        ("{", "cannot be read as JSON"), ("{}", "has no model"),
        (json.dumps(odd), "cannot be read as a tokenizer"),
    ):  # fmt: skip
        path.write_text(content)
        refused(lambda: hf.load_tokenizer(copy), words)


def test_the_tokenizer_is_judged_as_for_a_compilation(copy: Path) -> None:
    settings = json.loads((copy / "tokenizer_config.json").read_text())
    (copy / "tokenizer_config.json").write_text(json.dumps(settings | {"odd": 1}))
    refused(lambda: hf.load_tokenizer(copy), "'odd'", UnsupportedError)


def test_index_that_names_files_elsewhere(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    index = copy / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../tiny/model.safetensors"}}))
    refused(lambda: hf.load_classifier(copy, LABELS), "restore it")
    index.write_text("{}")
    refused(lambda: hf.load_classifier(copy, LABELS), "does not say")


def test_random_start_follows_the_seed(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "m")
    heads = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        heads.append(hf.parts_of(hf.load_classifier(folder, LABELS)).head.weight)
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])


def test_a_teacher_is_read_through_the_inventory(copy: Path) -> None:
    edit(copy, entry_of_the_future=1)
    unknown = "'entry_of_the_future' (1) is not known"
    refused(lambda: hf.load_config(copy), unknown, UnsupportedError)
    refused(
        lambda: hf.load_classifier(copy, LABELS), "--ignore config.json:entry", UnsupportedError
    )
    own = Inventory(copy, ["config.json:entry_of_the_future"])
    assert hf.load_classifier(copy, LABELS, own).config.num_labels == len(LABELS)
    (copy / "adapter_config.json").write_text("{}")
    refused(lambda: hf.load_config(copy), "adapter; merge it", UnsupportedError)

"""Teachers of every family: what their modules are, and students that inherit from them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
)

from canao.defaults import silent
from canao.errors import InputError, UnsupportedError
from canao.model import blocks, hf
from canao.model.arch import Arch, Block
from canao.model.blocks import BlockBertForSequenceClassification
from canao.model.families.parts import Attend, whole
from canao.model.families.table import FAMILIES as TABLE
from canao.model.families.table import family_of, half_of
from canao.train.data import TextData
from canao.train.distillation.signals import QUERY, STATES, Signal
from canao.train.distillation.targets import TeacherTargets
from canao.train.engine.batches import Batch, Encoded, collate, encode
from canao.train.inheritance.contributions import contributions
from canao.train.inheritance.importance import Importance, measure_importance
from canao.train.inheritance.inherit import Kept, copy_kept, inherit, keep
from canao.train.inheritance.pruning import measure_errors
from canao.train.teacher.finetune import label_loss
from tests.oracle import OF_GRADIENTS, OF_STATES, SAME, SHALLOW, assert_close
from tests.train.tiny_families import FAMILIES, FULL, save_tiny_of, smaller, uneven

ALL = list(FAMILIES)
LABELS = ("neg", "pos")


@cache
def folder(name: str) -> Path:
    return save_tiny_of(name, Path(mkdtemp(prefix=f"canao-{name}-")))


@cache
def teacher(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    return hf.load_classifier(folder(name), LABELS)


@cache
def _data(name: str, examples: tuple[object, ...]) -> Encoded:
    takes = hf.takes(teacher(name).config)
    return encode(hf.load_tokenizer(folder(name)), examples, 32, takes.types, most=takes.tokens)


@pytest.fixture
def data(name: str, task: TextData) -> Encoded:
    return _data(name, task.train)


@pytest.fixture
def importance(name: str, data: Encoded) -> Importance:
    return measure_importance(teacher(name), data, examples=32)


def logits(model: PreTrainedModel, batch: Batch) -> Tensor:
    with torch.no_grad():
        return model(**batch.inputs).logits


def attend_in(batch: Batch) -> Attend:
    """Attention of tokens laid out one after another, within each text."""
    real = batch.padding_mask.bool()

    def attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
        split = []
        for flat in (query, key, value):
            padded = flat.new_zeros(*real.shape, flat.shape[1])
            padded[real] = flat
            split.append(padded.unflatten(-1, (heads, -1)).transpose(1, 2))
        out = functional.scaled_dot_product_attention(*split, attn_mask=real[:, None, None])
        return out.transpose(1, 2).flatten(2)[real]

    return attend


@pytest.mark.parametrize("name", ALL)
def test_parts_compute_what_the_model_does(name: str, data: Encoded) -> None:
    """Layer by layer, on texts of several lengths in one batch."""
    model, batch = teacher(name), collate(data, range(9))
    parts, real = hf.parts_of(model), batch.padding_mask.bool()
    assert not bool(real.all())
    with torch.no_grad():
        out = model(**batch.inputs, output_hidden_states=True)
        state = parts.embeddings(batch.ids, batch.types)[real]
        assert_close(state, out.hidden_states[0][real], tolerance=SHALLOW, relative=OF_STATES)
        for layer, want in zip(parts.layers, out.hidden_states[1:], strict=True):
            state = layer.inside(state, attend_in(batch)).end
            assert_close(state, want[real], tolerance=SHALLOW, relative=OF_STATES)
        first = state[real.sum(1).cumsum(0) - real.sum(1)]
        made = parts.head(parts.pooled(first))
        assert_close(made, out.logits, tolerance=SHALLOW, relative=OF_STATES)


@pytest.mark.parametrize("name", ALL)
def test_the_teachers_own_shape_is_an_exact_copy(
    name: str, data: Encoded, importance: Importance
) -> None:
    model, full = teacher(name), FULL[name]
    assert hf.arch_of(model.config) == full
    student = inherit(model, full, keep(full, full, importance), data)
    assert type(student) is type(model) and student is not model
    assert student.state_dict().keys() == model.state_dict().keys()
    for key, weight in model.state_dict().items():
        assert torch.equal(student.state_dict()[key], weight), key
    batch = collate(data, range(8))
    assert torch.equal(logits(student, batch), logits(model, batch))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("shape", [smaller, uneven])
def test_students_are_saved_and_fitted(
    name: str, shape: object, data: Encoded, importance: Importance, tmp_path: Path
) -> None:
    assert callable(shape)
    model, arch = teacher(name), shape(name)
    kept = keep(FULL[name], arch, importance)
    student, cut = inherit(model, arch, kept, data), inherit(model, arch, kept, None)
    assert hf.arch_of(student.config) == arch
    own = arch.is_uniform
    assert type(student) is (type(model) if own else BlockBertForSequenceClassification)
    hf.save_model(student, hf.load_tokenizer(folder(name)), tmp_path / "student")
    read = AutoModelForSequenceClassification.from_pretrained(tmp_path / "student").eval()
    batch = collate(data, range(8))
    assert torch.equal(logits(read, batch), logits(student, batch))
    assert str(folder(name)) not in (tmp_path / "student" / "config.json").read_text()
    # The fit comes nearer to what the teacher's last layer gives.
    other = collate(data, range(200, 240))
    real = other.padding_mask.bool()
    with torch.no_grad():
        want, near, far = (
            m(**other.inputs, output_hidden_states=True).hidden_states[-1][real]
            for m in (model, student, cut)
        )
    want = hf.parts_of(model).layers[-1].compared(want)[:, kept.hidden]
    assert (near - want).square().mean() < 0.9 * (far - want).square().mean()


def all_of(arch: Arch) -> Kept:
    every, heads = torch.arange(arch.hidden), (torch.arange(arch.width),) * arch.layers
    units = (torch.arange(arch.ffn),) * arch.layers
    return Kept(tuple(range(arch.layers)), every, every, heads, heads, units)


@pytest.mark.parametrize("name", [name for name in ALL if "mobilebert" not in name])
def test_blocks_of_full_size_are_the_teacher(name: str, data: Encoded) -> None:
    """BERT with blocks computes what the family's own modules do, with nothing left out."""
    model, full = teacher(name), FULL[name]
    config = blocks.config_of(family_of(model.config).block_settings(model.config), full)
    student = hf.build_classifier(config).eval()
    assert type(student) is BlockBertForSequenceClassification
    with torch.no_grad():
        copy_kept(hf.parts_of(model), hf.parts_of(student), all_of(full))
    batch = collate(data, range(16))
    assert_close(logits(student, batch), logits(model, batch), tolerance=SHALLOW)
    assert hf.takes(config).tokens == hf.takes(model.config).tokens
    longest = torch.full((1, hf.takes(config).tokens), 7)
    with torch.no_grad():
        one, two = student(longest).logits, model(longest).logits
    assert_close(one, two, tolerance=SHALLOW)


@contextmanager
def zeroed(*modules: torch.nn.Module) -> Iterator[None]:
    """In the context, these modules read zeros."""
    hooks = [m.register_forward_pre_hook(lambda m, given: (0 * given[0],)) for m in modules]
    yield
    for hook in hooks:
        hook.remove()


def test_what_mobileberts_halves_add_is_what_it_loses_without_them(task: TextData) -> None:
    """Its real layers with no units, then with no heads either, against the BERT layers that
    students start from."""
    name = "mobilebert"
    model, batch = teacher(name), collate(_data(name, task.train), range(9))
    layer, real = hf.parts_of(model).layers[1], batch.padding_mask.bool()
    attention, ffns = whole(layer)
    bert = layer.as_bert()
    assert bert.attention is not None and bert.ffn is not None
    torch.manual_seed(4)
    state = torch.randn(int(real.sum()), 32)
    padded = torch.zeros(*real.shape, 32)
    padded[real] = state
    mask = real[:, None, None]
    module = model.mobilebert.encoder.layer[1]
    downs, seen = [ffn.down for ffn in ffns], list[Tensor]()
    hook = attention.output.register_forward_pre_hook(lambda m, given: seen.append(given[0]))
    with torch.no_grad():
        inside = layer.inside(state, attend_in(batch))
        end = module(padded, mask)[real]
        with zeroed(*downs):
            middle = module(padded, mask)[real]
        with zeroed(*downs, attention.output):
            bare = module(padded, mask)[real]
        added = functional.relu(inside.up) @ bert.ffn.down.weight.T
        context = seen[1][real] @ bert.attention.output.weight.T
    hook.remove()
    assert_close(inside.end, end, tolerance=SHALLOW, relative=OF_STATES)
    assert_close(inside.middle, middle, tolerance=SHALLOW, relative=OF_STATES)
    assert_close(end - middle, added, tolerance=SHALLOW, relative=OF_STATES)
    assert_close(middle - bare, context, tolerance=SHALLOW, relative=OF_STATES)
    assert float(added.abs().mean()) > 1e-3 < float(context.abs().mean())
    with torch.no_grad():
        for mine, want in ((bert.attention.query, inside.query), (bert.attention.key, inside.key),
                           (bert.attention.value, inside.value)):  # fmt: skip
            assert_close(mine(state), want, tolerance=SHALLOW, relative=OF_STATES)


def test_tokens_that_are_far_larger_hide_no_others(task: TextData) -> None:
    """MobileBERT's first token may be ten million times as large as the others: the published model
    gives -2.5e7, where other tokens have single digits (in Transformers' own test of it)."""
    model = teacher("mobilebert")
    layer = hf.parts_of(model).layers[-1]
    torch.manual_seed(5)
    state, attend = torch.randn(24, 32), lambda query, key, value, heads: value
    with torch.no_grad():
        plain = layer.inside(state, attend)
        usual = layer.aims(plain)
        state[0] *= 1e7
        aims = layer.aims(layer.inside(state, attend))
    for name in ("query", "key", "value", "total", "middle", "up", "after", "end"):
        mine, want = getattr(aims, name), getattr(usual, name)
        assert float(mine[0].abs().max()) < 100, name
        torch.testing.assert_close(mine[1:], want[1:], rtol=0.1, atol=0.1)
        assert bool((want - getattr(plain, name)).abs().max() < SHALLOW) == (
            name in ("query", "key", "value", "up")
        )
    # Kept in half precision for students, they are finite.
    data = _data("mobilebert", task.train).take(range(8))
    with torch.no_grad():
        scale = layer.outward.norm.weight.clone()
        layer.outward.norm.weight.mul_(1e7)
        targets = TeacherTargets(model, data)
        targets.prepare({Signal(2, STATES), Signal(2, QUERY)}, silent)
        layer.outward.norm.weight.copy_(scale)
    assert all(bool(kept.isfinite().all()) for kept in targets.held.values())
    assert float(targets.held[Signal(2, STATES)].float().square().mean()) == pytest.approx(1, 0.05)


@pytest.mark.parametrize("name", ["distilbert", "electra", "mobilebert"])
def test_importance_is_the_gradient_of_masks(name: str, data: Encoded) -> None:
    model, full = teacher(name), FULL[name]
    found = measure_importance(model, data, examples=16)
    layers = [whole(layer) for layer in hf.parts_of(model).layers]
    stream, masks, hooks = torch.ones(full.hidden, requires_grad=True), list[list[Tensor]](), []
    end = hf.parts_of(model).embeddings.end
    for attention, ffns in layers:
        read = (attention.output, *(ffn.down for ffn in ffns))
        masks.append([torch.ones(m.in_features, requires_grad=True) for m in read])
        hooks += [m.register_forward_pre_hook(lambda m, x, k=mask: (x[0] * k,))
                  for m, mask in zip(read, masks[-1], strict=True)]  # fmt: skip
    hooks.append(end.register_forward_hook(lambda m, x, out: out * stream))
    batch = collate(data, range(16))
    label_loss(model(**batch.inputs).logits, batch.labels).backward()
    model.zero_grad()
    for hook in hooks:
        hook.remove()
    for i, (heads, *units) in enumerate(masks):
        want = heads.grad
        assert_close(found.values[i], want.abs(), tolerance=SAME, relative=OF_GRADIENTS)
        sums = want.view(full.heads, full.head_size).sum(1).abs()
        assert_close(found.heads[i], sums, tolerance=SAME, relative=OF_GRADIENTS)
        got = torch.cat([mask.grad for mask in units]).abs()
        assert got.shape == found.ffn_units[i].shape == (full.ffn,)
        assert (found.ffn_units[i] >= got - SHALLOW).all()
    assert (found.hidden >= stream.grad.abs() - SHALLOW).all()


@pytest.mark.parametrize("name", ALL)
def test_errors_and_contributions_of_every_family(name: str, data: Encoded) -> None:
    model, full = teacher(name), FULL[name]
    found = measure_errors(model, data.take(range(64)))
    assert found.heads.shape == (full.layers, full.heads + 1)
    assert found.ffn.shape == (full.layers, full.ffn + 1)
    for shares in (found.heads, found.ffn):
        assert (shares[:, 0] == 1).all() and (shares[:, -1] == 0).all()
        assert (shares.diff(dim=1) <= SAME).all() and float(shares[:, 1:-1].max()) > 0.01
    # A unit, and a head, that nothing is written by.
    with torch.no_grad():
        _, ffns = whole(hf.parts_of(model).layers[1])
        kept = ffns[-1].down.weight[:, 3].clone()
        ffns[-1].down.weight[:, 3] = 0
        given = contributions(model, data.take(range(32)))
        ffns[-1].down.weight[:, 3] = kept
    place = full.ffn - full.ffn // len(ffns) + 3
    assert float(given.ffn_units[1, place]) == 0 < float(given.ffn_units[1, place + 1 :].max())
    assert given.values.shape == given.scores.shape == (full.layers, full.width)


@pytest.mark.parametrize("name", ALL)
def test_a_head_follows_its_labels(name: str, tmp_path: Path) -> None:
    assert not hf.is_fine_tuned(folder(name), LABELS)
    hf.save_model(teacher(name), hf.load_tokenizer(folder(name)), tmp_path / "tuned")
    assert hf.is_fine_tuned(tmp_path / "tuned", LABELS)
    assert not hf.is_fine_tuned(tmp_path / "tuned", (*LABELS, "neutral"))
    turned = hf.load_classifier(tmp_path / "tuned", LABELS[::-1])
    rows = hf.parts_of(teacher(name)).head.weight.flip(0)
    assert torch.equal(hf.parts_of(turned).head.weight, rows)
    assert turned.config.id2label[0] == "pos"
    assert hf.load_classifier(tmp_path / "tuned", ()).config.num_labels == 1


@pytest.mark.parametrize(
    ("name", "kind"),
    [("distilbert", AutoModelForMaskedLM), ("roberta", AutoModelForMaskedLM),
     ("electra", AutoModelForPreTraining), ("mobilebert", AutoModelForPreTraining),
     ("camembert", AutoModelForTokenClassification)],
)  # fmt: skip
def test_checkpoints_of_other_heads(name: str, kind: type, tmp_path: Path) -> None:
    """As they come from pre-training: the encoder is taken, the head is not."""
    kind.from_pretrained(folder(name)).save_pretrained(tmp_path)
    assert not hf.is_fine_tuned(tmp_path, (*LABELS, "neutral"))
    model = hf.load_classifier(tmp_path, (*LABELS, "neutral"))
    mine = hf.encoder_of(model).state_dict()
    for key, weight in hf.encoder_of(teacher(name)).state_dict().items():
        if ".pooler." not in f".{key}":
            assert torch.equal(mine[key], weight), key


@pytest.mark.parametrize("name", ALL)
def test_weights_that_are_missing_are_named(name: str, tmp_path: Path) -> None:
    place = save_tiny_of(name, tmp_path)
    tensors = load_file(place / "model.safetensors")
    lost = next(key for key in sorted(tensors) if "layer.1." in key and key.endswith("weight"))
    rest = {key: tensor for key, tensor in tensors.items() if key != lost}
    save_file(rest, place / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=f"1 weights are missing, such as .*{lost}"):
        hf.load_classifier(place, LABELS)


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("roberta", {"is_decoder": True}, "a decoder; search needs an encoder"),
        ("electra", {"add_cross_attention": True}, "a decoder; search needs an encoder"),
        ("electra", {"architectures": ["ElectraForMaskedLM"]}, "generator .* give its discrim"),
        ("electra", {"position_embedding_type": "relative_key"}, "'position_embedding_type'"),
        ("electra", {"hidden_act": "wobble"}, "hidden_act is 'wobble'"),
        ("distilbert", {"activation": "wobble"}, "activation is 'wobble'"),
        ("roberta", {"hidden_act": "prelu"}, "hidden_act is 'prelu', which has weights of its own"),
        ("roberta", {"pad_token_id": None}, "names no pad_token_id"),
        ("mobilebert", {"normalization_type": "layer_norm"}, "normalization_type is 'layer_norm'"),
        ("mobilebert", {"use_bottleneck": False}, "use_bottleneck is False; give a MobileBERT wit"),
        ("mobilebert", {"trigram_input": False}, "trigram_input is False"),
        ("canao-bert", {"block_heads": [2, 1, 2]}, "its layers have shapes of their own; give"),
        ("canao-bert", {"block_heads": [2, 0, 2]}, "its layers have shapes of their own; give"),
        ("roberta", {"model_type": "albert"}, "model_type is 'albert'; .* bert, .*roberta, .*ele"),
    ],
)
def test_what_cannot_be_a_teacher_is_refused_in_a_line(
    name: str, changes: dict[str, object], words: str, tmp_path: Path
) -> None:
    path = save_tiny_of(name, tmp_path) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(UnsupportedError, match=words) as caught:
        hf.load_config(tmp_path)
    assert "\n" not in str(caught.value)


def test_sizes_that_make_no_architecture(tmp_path: Path) -> None:
    path = save_tiny_of("distilbert", tmp_path) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"n_heads": 5}))
    with pytest.raises(InputError, match="hidden 32 is not a multiple of heads 5; correct"):
        hf.load_config(tmp_path)


@pytest.mark.parametrize("name", ALL)
def test_modules_belong_to_halves(name: str) -> None:
    """Every weight of a layer is in one half of it, and attention's are in the first."""
    model = teacher(name)
    parts = hf.parts_of(model)
    paths = {id(module): path for path, module in model.named_modules()}
    for i, layer in enumerate(parts.layers):
        attention, ffns = whole(layer)
        for linear in (attention.query, attention.key, attention.value, attention.output):
            assert half_of(paths[id(linear)]) == 2 * i
        for ffn in ffns:
            assert half_of(paths[id(ffn.up)]) == half_of(paths[id(ffn.down)]) == 2 * i + 1
    outside = (parts.words, parts.embeddings.end, parts.pooler or parts.head, parts.head)
    assert {half_of(paths[id(module)]) for module in outside} == {-1}
    found = {half_of(path) for path in paths.values()}
    assert found == {-1, *range(2 * len(parts.layers))}


def test_the_table_names_what_is_tested() -> None:
    variants = {"electra-wide", "mobilebert-bare"}
    assert set(TABLE) == (set(ALL) - variants) | {"bert"}


def test_stages_of_a_search_know_no_family() -> None:
    """Training and searching import roles and the table, and no family's module or class. What a
    model's family is called is passed on beside a tokenizer, and nothing is decided by it."""
    root = Path(blocks.__file__).parent.parent
    for path in [*(root / "train").rglob("*.py"), *(root / "search").rglob("*.py")]:
        text = path.read_text(encoding="utf-8")
        named = set(re.findall(r"canao\.model\.families\.(\w+)", text))
        assert named <= {"parts", "table"}, path
        own = r"model_type *([!=]=|in\b)|\.(bert|roberta|distilbert|electra|mobilebert)\b"
        assert not re.search(own, text), path


def test_embeddings_as_wide_as_the_student_keep_their_projection(
    task: TextData, tmp_path: Path
) -> None:
    """Transformers' ELECTRA has none where both are equal, so the student is one of blocks.py."""
    name, arch = "electra", Arch(16, 8, (Block(2, 40),) * 2)
    data = _data(name, task.train)
    kept = keep(FULL[name], arch, measure_importance(teacher(name), data, examples=16))
    student = inherit(teacher(name), arch, kept, data)
    assert isinstance(student, BlockBertForSequenceClassification)
    assert student.config.embedding_size == 16 == student.config.hidden_size
    batch = collate(data, range(8))
    with torch.no_grad():
        mine = hf.parts_of(student).embeddings(batch.ids, batch.types)
        want = hf.parts_of(teacher(name)).embeddings(batch.ids, batch.types)[..., kept.hidden]
    assert_close(mine, want, tolerance=SHALLOW, relative=OF_STATES)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"head_activation": "cosine"}, "is 'cosine', not one of tanh, relu, gelu, none"),
        ({"embedding_size": -3}, "embedding_size"),
        ({"trigram_input": True, "embedding_size": None}, "trigram_input needs an embedding_size"),
        ({"embedding_size": 4096}, "embedding_size|has shape|belongs to another|calls for"),
    ],
)
def test_odd_settings_of_blocks(changes: dict[str, object], words: str, tmp_path: Path) -> None:
    path = save_tiny_of("canao-bert", tmp_path) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(InputError, match=words) as caught:
        hf.load_classifier(tmp_path, LABELS)
    assert "\n" not in str(caught.value)

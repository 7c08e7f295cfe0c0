from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from canao.errors import InputError
from canao.model import hf
from canao.model.arch import Arch, Block
from canao.model.families.parts import both
from canao.train.data import TextData
from canao.train.engine.batches import Encoded, collate, encode
from canao.train.engine.tensor_files import read_tensors, write_tensors
from canao.train.inheritance.importance import Importance, measure_importance
from canao.train.inheritance.inherit import inherit, keep
from canao.train.teacher.finetune import label_loss
from tests.oracle import OF_GRADIENTS, OF_STATES, SAME, SHALLOW, assert_close

FULL = Arch.uniform(3, 32, 4, 64)


@pytest.fixture(scope="module")
def teacher(tiny: Path, task: TextData) -> PreTrainedModel:
    torch.manual_seed(0)
    model = hf.load_classifier(tiny, task.labels)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("bias"):
                p.normal_(0, 0.1)
    return model


@pytest.fixture(scope="module")
def data(tiny: Path, task: TextData) -> Encoded:
    return encode(hf.load_tokenizer(tiny), task.train, 32)


@pytest.fixture(scope="module")
def importance(teacher: PreTrainedModel, data: Encoded) -> Importance:
    return measure_importance(teacher, data, examples=64)


def states(model: PreTrainedModel, data: Encoded) -> Tensor:
    batch = collate(data, range(100, 150))
    with torch.no_grad():
        return model.bert(**batch.inputs).last_hidden_state[batch.padding_mask.bool()]


def logits(model: PreTrainedModel, data: Encoded) -> Tensor:
    with torch.no_grad():
        return model(**collate(data, range(32)).inputs).logits


def test_importance_is_the_gradient_of_masks(teacher: PreTrainedModel, data: Encoded) -> None:
    """Against autograd through real masks, put in with hooks."""
    found = measure_importance(teacher, data, examples=16)
    layers = hf.parts_of(teacher).layers
    context = [torch.ones(32, requires_grad=True) for _ in layers]
    inner = [torch.ones(64, requires_grad=True) for _ in layers]
    hooks = []
    for i, layer in enumerate(layers):
        attention, ffn = both(layer)
        for linear, mask in ((attention.output, context[i]), (ffn.down, inner[i])):
            hooks.append(linear.register_forward_pre_hook(lambda m, x, k=mask: (x[0] * k,)))
    batch = collate(data, range(16))
    label_loss(teacher(**batch.inputs).logits, batch.labels).backward()
    teacher.zero_grad()
    for hook in hooks:
        hook.remove()
    for i in range(len(layers)):
        heads = context[i].grad.view(4, 8).sum(1).abs()
        assert_close(found.heads[i], heads, tolerance=SAME, relative=OF_GRADIENTS)
        assert_close(found.values[i], context[i].grad.abs(), tolerance=SAME, relative=OF_GRADIENTS)
        assert (found.ffn_units[i] >= inner[i].grad.abs() - SHALLOW).all()


def test_the_teachers_own_shape_is_an_exact_copy(
    teacher: PreTrainedModel, data: Encoded, importance: Importance
) -> None:
    student = inherit(teacher, FULL, keep(FULL, FULL, importance), data)
    for name, weight in teacher.state_dict().items():
        assert torch.equal(student.state_dict()[name], weight), name
    assert torch.equal(logits(student, data), logits(teacher, data))
    assert student is not teacher


def test_lower_layers_alone_stay_what_they_were(
    teacher: PreTrainedModel, data: Encoded, importance: Importance
) -> None:
    arch = Arch.uniform(2, 32, 4, 64)
    student = inherit(teacher, arch, keep(FULL, arch, importance, layers=(0, 1)), data)
    wanted, kept = teacher.state_dict(), student.state_dict()
    names = [name for name in kept if "encoder" in name or "embeddings" in name]
    assert len(names) > 2 * 16, "a layer has 16 tensors"
    for name in names:
        assert_close(kept[name], wanted[name], name)


def blocks(hidden: int, *halves: tuple[int, int]) -> Arch:
    return Arch(hidden, 8, tuple(Block(heads, ffn) for heads, ffn in halves))


@pytest.mark.parametrize(
    "arch",
    [Arch.uniform(3, 24, 3, 64), Arch.uniform(3, 32, 4, 24), Arch.uniform(3, 32, 2, 64),
     Arch.uniform(3, 24, 4, 40), Arch.uniform(3, 20, 2, 33), blocks(32, (2, 64), (0, 40), (3, 0)),
     blocks(24, (4, 0), (1, 64)), blocks(32, (0, 64), (4, 64), (4, 9)), blocks(28, (1, 1))],
)  # fmt: skip
def test_fitting_comes_nearer_to_the_teacher_than_cutting(
    arch: Arch, teacher: PreTrainedModel, data: Encoded, importance: Importance
) -> None:
    kept = keep(FULL, arch, importance)
    wanted = states(teacher, data)[:, kept.hidden]
    fitted = states(inherit(teacher, arch, kept, data), data)
    cut = states(inherit(teacher, arch, kept, None), data)
    assert (fitted - wanted).square().mean() < 0.8 * (cut - wanted).square().mean()


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_scores_keep_their_scale(
    heads: int, teacher: PreTrainedModel, importance: Importance
) -> None:
    """A student's score is the mean of the teacher's scores that it was made of."""
    arch = Arch.uniform(3, 32, heads, 64) if heads < 4 else Arch.uniform(3, 16, 4, 64)
    kept = keep(FULL, arch, importance)
    student = hf.parts_of(inherit(teacher, arch, kept, None)).layers[0].attention
    old = hf.parts_of(teacher).layers[0].attention
    x = torch.randn(5, 32)
    x[:, [i for i in range(32) if i not in kept.hidden.tolist()]] = 0
    with torch.no_grad():
        mine = student.query(x[:, kept.hidden]) * student.key(x[:, kept.hidden])
        theirs = (old.query(x) * old.key(x))[:, kept.scores[0]]
    mine = mine.unflatten(1, (heads, -1)).sum(2) / arch.head_size**0.5
    joined = max(1, arch.head_size // 8)
    theirs = theirs.unflatten(1, (heads, -1)).sum(2) / 8**0.5 / joined
    assert_close(mine, theirs, tolerance=SHALLOW, relative=OF_STATES)


def test_what_matters_most_is_kept(importance: Importance) -> None:
    kept = keep(FULL, Arch.uniform(2, 16, 2, 20), importance, layers=(0, 2))
    top = importance.ffn_units[2].topk(20).indices.sort().values
    assert torch.equal(kept.ffn_units[1], top) and kept.layers == (0, 2)
    heads = {int(i) // 8 for i in kept.values[0]}
    assert heads == set(importance.heads[0].topk(2).indices.tolist())
    assert len(kept.hidden) == len(kept.scores[0]) == len(kept.pooled) == 16


@pytest.mark.parametrize(("layers", "chosen"), [(1, (2,)), (2, (1, 2)), (3, (0, 1, 2))])
def test_layers_are_spread_and_end_with_the_last(
    layers: int, chosen: tuple[int, ...], importance: Importance
) -> None:
    assert keep(FULL, Arch.uniform(layers, 32, 4, 64), importance).layers == chosen


@pytest.mark.parametrize(
    ("arch", "name"),
    [(blocks(32, (5, 64)), "heads"), (Arch(32, 16, (Block(3, 64),)), "heads of 16"),
     (Arch.uniform(4, 32, 4, 64), "layers"), (Arch.uniform(3, 36, 4, 64), "hidden"),
     (Arch.uniform(3, 32, 8, 64), "heads"), (Arch.uniform(3, 32, 4, 65), "ffn")],
)  # fmt: skip
def test_a_student_cannot_have_more(arch: Arch, name: str, importance: Importance) -> None:
    with pytest.raises(InputError, match=f"{name}.*student.* cannot (have more|be wider)"):
        keep(FULL, arch, importance)


def test_inheriting_leaves_torchs_generator_alone(
    teacher: PreTrainedModel, data: Encoded, importance: Importance
) -> None:
    arch = Arch.uniform(2, 24, 3, 40)
    torch.manual_seed(7)
    first = inherit(teacher, arch, keep(FULL, arch, importance), data)
    drawn = torch.rand(1)
    torch.manual_seed(7)
    assert torch.equal(torch.rand(1), drawn)
    second = inherit(teacher, arch, keep(FULL, arch, importance), data)
    assert torch.equal(logits(first, data), logits(second, data))


def test_importance_is_stored_under_its_key(importance: Importance, tmp_path: Path) -> None:
    path = tmp_path / "importance.safetensors"
    assert Importance.load(path, "k", FULL) is None
    importance.save(path, "k")
    assert torch.equal(Importance.load(path, "k", FULL).heads, importance.heads)
    assert Importance.load(path, "other", FULL) is None
    path.write_bytes(b"junk")
    assert Importance.load(path, "k", FULL) is None


def test_importance_of_another_version_is_measured_again(
    importance: Importance, tmp_path: Path
) -> None:
    path = tmp_path / "importance.safetensors"
    importance.save(path, "key")
    found = Importance.load(path, "key", FULL)
    assert found is not None and torch.equal(found.ffn_units, importance.ffn_units)
    tensors, note = read_tensors(path)
    tensors["neurons"] = tensors.pop("ffn_units")
    write_tensors(path, tensors, note)
    assert Importance.load(path, "key", FULL) is None

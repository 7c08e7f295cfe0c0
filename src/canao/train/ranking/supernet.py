"""A supernet: one set of weights in which every student is a part, so that none has to be trained.

It has the teacher's shape. A student is what `inherit.keep` leaves of it: its most important heads,
FFN units and dimensions, in some of its layers. So students lie one inside the other, and share
what they have in common (Hou et al. 2020, "DynaBERT", section 2: width and depth of a fine-tuned
BERT, whose heads and units are sorted by importance).

It is trained by the sandwich rule with distillation in place (Yu et al. 2020, "BigNAS", sections
3.1 and 3.2): at each step the whole, the smallest and a few random students see the same batch. The
whole learns what the teacher says, the others what the whole has just said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from random import Random

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.initialization import no_init_weights

from canao.model.arch import Arch, Block
from canao.model.heads import head_of
from canao.model.hf import arch_of, build_classifier, parts_of, student_config
from canao.train.distillation.distill import compared, needed
from canao.train.distillation.losses import LOSSES
from canao.train.distillation.signals import Pairing, Seen, observe
from canao.train.distillation.targets import TeacherTargets
from canao.train.engine.batches import Batch, Encoded
from canao.train.engine.compact import as_compact
from canao.train.engine.compute import device_of
from canao.train.engine.loop import Loop, Progress, TrainingSchedule
from canao.train.engine.tensor_files import read_keyed, write_tensors
from canao.train.inheritance.inherit import Kept, copy_kept

_RANDOM = 2  # random students of a step
_WIDTHS, _FFN = 4, 8  # students are at least one of so many parts as wide as the teacher
_LEFT_OUT = 0.1  # of the halves of layers, in students whose layers differ

Keeps = Callable[[Arch], Kept]
Pairs = Callable[[PreTrainedModel, Kept], Pairing]


class Supernet:
    """The shared weights.

    model   of the teacher's shape; trained in place
    keeps   what a student of an architecture keeps of it
    """

    def __init__(self, model: PreTrainedModel, keeps: Keeps) -> None:
        self.model, self.keeps = model, keeps
        self.arch = arch_of(model.config)

    def student(self, arch: Arch) -> PreTrainedModel:
        """The student with this architecture, in evaluation mode. Its weights are copies, and where
        gradients are computed, theirs reach the supernet's through the copying."""
        # All weights are copied: random ones would only take time.
        with torch.no_grad(), no_init_weights():
            config = student_config(self.model.config, arch)
            student = build_classifier(config, head_of(self.model))
        # What asks for no gradient may be written to, and then knows where it came from.
        student = student.eval().requires_grad_(False).to(device_of(self.model))
        whole, parts = parts_of(self.model), parts_of(student)
        as_compact(parts.words, whole.words)
        if arch == self.arch:
            for mine, own in zip(student.parameters(), self.model.parameters(), strict=True):
                mine.copy_(own)
        else:
            copy_kept(whole, parts, self.keeps(arch))
        return student

    def save(self, path: Path, key: str) -> None:
        """Write the weights to a safetensors file under `key`."""
        write_tensors(path, _weights(self.model), {"key": key})

    def load(self, path: Path, key: str) -> bool:
        """Take the weights that were saved under `key`; whether there were such, and whole."""
        own = _weights(self.model)
        found = read_keyed(path, key, {name: tuple(w.shape) for name, w in own.items()})
        if found is None:
            return False
        with torch.no_grad():
            for name, weight in own.items():
                weight.copy_(found[name])
        return True


def train_supernet(
    net: Supernet, targets: TeacherTargets, data: Encoded, schedule: TrainingSchedule,
    progress: Progress, losses: Mapping[str, float], pairs: Pairs, *,
    checkpoint: Path | None = None, key: str = "",
) -> None:  # fmt: skip
    """Train the shared weights in place.

    targets   what the teacher says of `data`, from which the whole learns
    losses    of the distillation, by name; those that go layer after layer have no part in it
    pairs     what of a model, given what it keeps, is compared with what of the teacher
    """
    used = {name: weight for name, weight in losses.items() if not LOSSES[name].staged}
    sandwich = _Sandwich(net, targets, used, pairs, schedule.seed)
    targets.prepare(needed(used, sandwich.pairing)[1], progress)
    loop = Loop(
        net.model, data, schedule, lambda batch: sandwich(batch, loop.state.step),
        checkpoint=checkpoint, key=key,
    )  # fmt: skip
    loop.run(progress)


class _Sandwich:
    """The loss of a batch: that of the whole, and the mean of the students'."""

    def __init__(
        self, net: Supernet, targets: TeacherTargets, losses: Mapping[str, float], pairs: Pairs,
        seed: int,
    ) -> None:  # fmt: skip
        self.net, self.targets, self.losses = net, targets, losses
        self.pairs, self.seed = pairs, seed
        self.pairing = self._pairing(net.model, net.arch)

    def __call__(self, batch: Batch, step: int) -> Tensor:
        draws = Random(f"{self.seed} {step}")
        archs = [smallest(self.net.arch), *(drawn(self.net.arch, draws) for _ in range(_RANDOM))]
        with torch.autocast(device_of(self.net.model).type, enabled=False):
            # What some families' weights are made of is computed as it is when students score.
            models = [self.net.student(arch) for arch in archs]
        students = [(one, self._pairing(one, arch))
                    for one, arch in zip(models, archs, strict=True)]  # fmt: skip
        asked = {s for _, pairing in students for s in needed(self.losses, pairing)[1]}
        mine, theirs = needed(self.losses, self.pairing)
        whole = observe(self.net.model, batch, asked | mine)
        total = compared(
            whole, self.targets.of(batch, theirs), batch, self.pairing, self.losses
        )  # fmt: skip
        said = Seen(whole.logits.detach(), {s: whole.signals[s].detach() for s in asked})
        for student, pairing in students:
            own = observe(student, batch, needed(self.losses, pairing)[0])
            loss = compared(own, said, batch, pairing, self.losses)
            total = total + loss / len(students)
        return total

    def _pairing(self, model: PreTrainedModel, arch: Arch) -> Pairing:
        found = self.pairs(model, self.net.keeps(arch))
        return replace(found, hidden=found.hidden.to(device_of(model)))


def smallest(teacher: Arch) -> Arch:
    """The smallest student that a supernet is trained for: one layer, a quarter as wide."""
    parts = max(1, _parts(teacher) // _WIDTHS)
    heads, ffn = _heads(teacher, parts), max(1, teacher.ffn // _FFN)
    return Arch(parts * teacher.head_size, teacher.head_size, (Block(heads, ffn),))


def drawn(teacher: Arch, draws: Random) -> Arch:
    """A random student: every second one of layers that are all alike, as controllers propose them,
    the others of layers of their own shapes."""
    widest = _parts(teacher)
    parts = draws.randint(max(1, widest // _WIDTHS), widest)
    heads, layers = _heads(teacher, parts), draws.randint(1, teacher.layers)
    units = [max(1, teacher.ffn * part // _FFN) for part in range(1, _FFN + 1)]
    if draws.random() < 0.5:
        blocks = (Block(heads, draws.choice(units)),) * layers
    else:
        blocks = tuple(_block(heads, units, draws) for _ in range(layers))
    return Arch(parts * teacher.head_size, teacher.head_size, blocks)


def _parts(teacher: Arch) -> int:
    """How many heads' width a teacher's hidden states have; of some it has fewer heads."""
    return max(1, teacher.hidden // teacher.head_size)


def _heads(teacher: Arch, parts: int) -> int:
    """The most heads of a student as wide as so many of them."""
    return min(parts, teacher.heads)


def _block(most: int, units: list[int], draws: Random) -> Block:
    """A block of a random shape, in some without one of its halves."""
    heads, ffn, left_out = draws.randint(1, most), draws.choice(units), draws.random()
    if left_out < _LEFT_OUT:
        return Block(0, ffn)
    return Block(heads, 0) if left_out < 2 * _LEFT_OUT else Block(heads, ffn)


def _weights(model: PreTrainedModel) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}

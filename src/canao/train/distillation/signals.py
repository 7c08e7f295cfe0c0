"""What distillation compares beside logits: vectors of tokens inside a teacher and a student."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from canao.model.families.parts import Layer, Norm
from canao.model.hf import arch_of, parts_of
from canao.train.engine.batches import Batch, logits_of

STATES, QUERY, KEY, VALUE = "states", "query", "key", "value"


@dataclass(frozen=True, order=True)
class Signal:
    """Vectors of a batch's tokens, [examples, tokens, width].

    layer   counted from 0
    part    STATES: the layer's output, as `Layer.compared` has it; QUERY, KEY, VALUE: of its
            attention, head after head
    """

    layer: int
    part: str


@dataclass(frozen=True)
class Seen:
    """What a model made of a batch: logits of its units [units, outputs], and the signals asked
    for."""

    logits: Tensor
    signals: dict[Signal, Tensor]

    def float(self) -> Seen:
        """The same in float32: a model that computes in bfloat16 gives some in it."""
        return Seen(self.logits.float(), {s: t.float() for s, t in self.signals.items()})


@dataclass(frozen=True)
class Pairing:
    """Which parts of a student are compared with which of its teacher's.

    layers          pairs of a layer of the student and one of the teacher, counted from 0
    hidden          [student hidden]: the teacher's dimensions that the student kept
    heads           of each layer of the student; 0 where it has no attention
    teacher_heads   of each layer of the teacher
    relations       the student's last layer with attention and the teacher's layer, whose relations
                    are compared; None where no layer of the student has attention
    relation_heads  at most; never more than a vector has dimensions
    """

    layers: tuple[tuple[int, int], ...]
    hidden: Tensor
    heads: tuple[int, ...]
    teacher_heads: tuple[int, ...]
    relations: tuple[int, int] | None
    relation_heads: int

    @classmethod
    def of(
        cls, student: PreTrainedModel, teacher: PreTrainedModel, layers: Sequence[int],
        hidden: Tensor, relation_heads: int, relation_layer: int | None = None,
    ) -> Pairing:  # fmt: skip
        """`layers` and `hidden` are what the student kept (`inherit.Kept`); `relation_layer` is the
        teacher's, counted from 1; None: its last."""
        heads, others = heads_of(student), heads_of(teacher)
        last = max((i for i, count in enumerate(heads) if count), default=None)
        relations = None if last is None else (last, (relation_layer or len(others)) - 1)
        return cls(
            tuple(enumerate(layers)), hidden, heads, others, relations, relation_heads
        )  # fmt: skip

    @property
    def attending(self) -> tuple[tuple[int, int], ...]:
        """The pairs of layers of which the student's has attention."""
        return tuple(pair for pair in self.layers if self.heads[pair[0]])

    def only(self, place: int) -> Pairing:
        """The same with one pair of layers."""
        return replace(self, layers=(self.layers[place],))


def observe(
    model: PreTrainedModel, batch: Batch, wanted: Collection[Signal] = (), frozen: int = 0
) -> Seen:
    """Run a batch, and note the signals that are wanted.

    No gradient reaches the `frozen` lowest layers, nor the embeddings if there are any such layers.
    """
    layers = parts_of(model).layers
    seen: dict[Signal, Tensor] = {}
    with ExitStack() as hooks:
        for signal in wanted:
            module = _module(layers[signal.layer], signal.part)
            shown = layers[signal.layer].compared if signal.part == STATES else _unchanged
            hooks.enter_context(module.register_forward_hook(partial(_note, seen, signal, shown)))
        if frozen:
            last = _module(layers[frozen - 1], STATES)
            hooks.enter_context(last.register_forward_hook(_detached))
        return Seen(logits_of(model, batch), seen)


def width_of(model: PreTrainedModel, signal: Signal) -> int:
    """The width of a signal's vectors."""
    module = _module(parts_of(model).layers[signal.layer], signal.part)
    return int(module.weight.shape[0])


def heads_of(model: PreTrainedModel) -> tuple[int, ...]:
    """The number of attention heads of each layer; 0 where it has no attention."""
    return tuple(block.heads for block in arch_of(model.config).blocks)


def _module(layer: Layer, part: str) -> nn.Linear | Norm:
    """The module whose output a part is."""
    if part == STATES:
        return layer.end
    attention = layer.attention
    assert attention is not None, "nothing is asked of attention that a layer lacks"
    return {QUERY: attention.query, KEY: attention.key, VALUE: attention.value}[part]


def _note(
    seen: dict[Signal, Tensor], signal: Signal, shown: Callable[[Tensor], Tensor],
    module: nn.Module, inputs: Any, output: Tensor,
) -> None:  # fmt: skip
    seen[signal] = shown(output)


def _unchanged(vectors: Tensor) -> Tensor:
    return vectors


def _detached(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return output.detach()

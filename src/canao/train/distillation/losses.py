"""The losses of distillation by name, and what each needs of teacher and student.

All see vectors of tokens by way of `signals.py`, of any family, and compare models of any two
widths and numbers of heads. None has weights of its own that would have to be learnt.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from canao.train.distillation.signals import KEY, QUERY, STATES, VALUE, Pairing, Seen, Signal
from canao.train.engine.batches import Batch, text_task
from canao.train.loss_names import STAGED, WEIGHTS
from canao.train.teacher.finetune import label_loss

_HIDDEN_KEYS = -1e9  # an attention score that leaves nothing of a key


# Signals of the student and of the teacher.
Needs = tuple[tuple[Signal, ...], tuple[Signal, ...]]
Value = Callable[[Seen, Seen, Batch, Pairing], Tensor]


@dataclass(frozen=True)
class Loss:
    """One loss.

    weight    where none is given
    meaning   in a line, for people
    source    where it is from
    needs     the signals that it compares, of the student and of the teacher; logits need not be
              named
    value     of what the student and the teacher made of a batch: the mean over its examples
    of_teacher   whether the teacher says what is right; else labels do
    staged    whether it is trained on by itself before the others, a pair of layers after the other
    """

    weight: float
    meaning: str
    source: str
    needs: Callable[[Pairing], Needs]
    value: Value
    of_teacher: bool = True
    staged: bool = False


def _logits(own: Seen, wanted: Seen, batch: Batch, pairing: Pairing) -> Tensor:
    task = batch.task or text_task(own.logits.shape[1] == 1)
    return task.teacher_loss(own.logits, wanted.logits)


def _labels(own: Seen, wanted: Seen, batch: Batch, pairing: Pairing) -> Tensor:
    labels, task = batch.labels, batch.task
    known = (task or text_task(labels.is_floating_point())).known(labels)
    if bool(known.all()):
        return label_loss(own.logits, labels, task)
    if not bool(known.any()):
        return own.logits.sum() * 0.0
    # An example with a label counts as much as in a batch where all have one.
    return label_loss(own.logits[known], labels[known], task) * known.float().mean()


def _hidden(own: Seen, wanted: Seen, batch: Batch, pairing: Pairing) -> Tensor:
    real = batch.padding_mask.bool()
    (mine,), (theirs,) = _last_states(pairing)
    target = wanted.signals[theirs][..., pairing.hidden]
    return functional.mse_loss(own.signals[mine][real], target[real])


def _attention(own: Seen, wanted: Seen, batch: Batch, pairing: Pairing) -> Tensor:
    real = batch.padding_mask.bool()
    total = own.logits.sum() * 0.0  # for a student without attention
    for mine, theirs in pairing.attending:
        scores = _scores(own, mine, pairing.heads[mine])
        target = _scores(wanted, theirs, pairing.teacher_heads[theirs])
        if scores.shape[1] != target.shape[1]:
            scores, target = (x.mean(1, keepdim=True) for x in (scores, target))
        keys = real[:, None, None, :]
        rows = ((scores - target).square() * keys).sum(-1) / keys.sum(-1)
        total = total + _over_tokens(rows, real)
    return total / max(1, len(pairing.attending))


def _relations(own: Seen, wanted: Seen, batch: Batch, pairing: Pairing) -> Tensor:
    real = batch.padding_mask.bool()
    total = own.logits.sum() * 0.0  # for a student without attention
    for mine, theirs in zip(*_relation_signals(pairing), strict=True):
        a, b = own.signals[mine], wanted.signals[theirs]
        count = min(pairing.relation_heads, a.shape[-1], b.shape[-1])
        a, b = (_log_softmax(relation_scores(x, count), real) for x in (a, b))
        total = total + _divergence(a, b, real)
    return total


def _progressive(own: Seen, wanted: Seen, batch: Batch, pairing: Pairing) -> Tensor:
    real = batch.padding_mask.bool()
    total = torch.zeros((), device=real.device)
    for mine, theirs in pairing.layers:
        target = wanted.signals[Signal(theirs, STATES)][..., pairing.hidden]
        distance = (own.signals[Signal(mine, STATES)] - target).square().mean(-1)
        total = total + _over_tokens(distance[:, None], real)
        if not pairing.heads[mine]:
            continue
        a = _log_softmax(_scores(own, mine, pairing.heads[mine]), real)
        b = _log_softmax(_scores(wanted, theirs, pairing.teacher_heads[theirs]), real)
        if a.shape[1] != b.shape[1]:
            a, b = (x.logsumexp(1, keepdim=True) - math.log(x.shape[1]) for x in (a, b))
        total = total + _divergence(a, b, real)
    return total / len(pairing.layers)


def relation_scores(x: Tensor, heads: int) -> Tensor:
    """Scaled products of all tokens' vectors, [examples, heads, tokens, tokens].

    x  [examples, tokens, width], cut into `heads` parts, of which the first are one longer where
    the width is no multiple of their number.
    """
    least, longer = divmod(x.shape[-1], heads)
    if longer:
        sizes = [least + (i < longer) for i in range(heads)]
        parts = [functional.pad(p, (0, least + 1 - p.shape[-1])) for p in x.split(sizes, -1)]
        split = torch.stack(parts, 1)
        scale = x.new_tensor([size**-0.5 for size in sizes])[:, None, None]
    else:
        split, scale = x.unflatten(-1, (heads, -1)).transpose(1, 2), least**-0.5
    return split @ split.transpose(2, 3) * scale


def _scores(seen: Seen, layer: int, heads: int) -> Tensor:
    """Attention before the softmax, [examples, heads, tokens, tokens]."""
    query, key = (
        seen.signals[Signal(layer, part)].unflatten(-1, (heads, -1)).transpose(1, 2)
        for part in (QUERY, KEY)
    )
    return query @ key.transpose(2, 3) * query.shape[-1] ** -0.5


def _log_softmax(scores: Tensor, real: Tensor) -> Tensor:
    """Over the tokens that are no padding."""
    hidden = ~real[:, None, None, :]
    return functional.log_softmax(scores.masked_fill(hidden, _HIDDEN_KEYS), dim=-1)


def _divergence(own: Tensor, wanted: Tensor, real: Tensor) -> Tensor:
    """KL(wanted || own) of logarithms [examples, heads, tokens, tokens], by `_over_tokens`."""
    return _over_tokens((wanted.exp() * (wanted - own)).sum(-1), real)


def _over_tokens(rows: Tensor, real: Tensor) -> Tensor:
    """The mean over heads and the tokens of each example, then over examples.

    rows  [examples, heads, tokens]
    """
    counted = rows.mean(1) * real
    return (counted.sum(1) / real.sum(1)).mean()


def _none(pairing: Pairing) -> Needs:
    return (), ()


def _last_states(pairing: Pairing) -> Needs:
    last = len(pairing.heads) - 1, len(pairing.teacher_heads) - 1
    return (Signal(last[0], STATES),), (Signal(last[1], STATES),)


def _attention_signals(pairing: Pairing) -> Needs:
    return _of(pairing.attending, (QUERY, KEY))


def _layer_signals(pairing: Pairing) -> Needs:
    states, attention = _of(pairing.layers, (STATES,)), _attention_signals(pairing)
    return states[0] + attention[0], states[1] + attention[1]


def _of(layers: Sequence[tuple[int, int]], parts: Sequence[str]) -> Needs:
    return (
        tuple(Signal(mine, part) for mine, _ in layers for part in parts),
        tuple(Signal(theirs, part) for _, theirs in layers for part in parts),
    )


def _relation_signals(pairing: Pairing) -> Needs:
    return _of([] if pairing.relations is None else [pairing.relations], (QUERY, KEY, VALUE))


# docs/training.md has these lines, too.
LOSSES = {
    "logits": Loss(
        WEIGHTS["logits"],
        "KL divergence from the teacher's class probabilities at temperature 2, times the "
        "squared temperature, of each word where words have labels, and of each label's yes or no "
        "where several may be right; squared error for regression, and of vectors at length 1",
        "Hinton et al. 2015, section 2", _none, _logits,
    ),
    "labels": Loss(
        WEIGHTS["labels"],
        "cross-entropy with the labels of the data, of a word's first token, or of each label's "
        "yes or no; squared error for regression",
        "Hinton et al. 2015, section 2", _none, _labels, of_teacher=False,
    ),
    "hidden": Loss(
        WEIGHTS["hidden"],
        "squared error of the last layer's output, in the dimensions that the student kept of "
        "the teacher, so that no projection between widths is needed",
        "TinyBERT (Jiao et al. 2020), equation 8, without its projection", _last_states, _hidden,
    ),
    "attention": Loss(
        WEIGHTS["attention"],
        "squared error of attention scores before the softmax, mean over layers; head by "
        "head, or of the mean over heads where their numbers differ",
        "TinyBERT (Jiao et al. 2020), equation 7; mean over heads: Zagoruyko & Komodakis 2017, "
        "section 3.1", _attention_signals, _attention,
    ),
    "relations": Loss(
        WEIGHTS["relations"],
        "KL divergence of the relations between tokens: softmax of the scaled products of "
        "queries with queries, keys with keys and values with values, of the student's last layer "
        "from a layer of the teacher's",
        "MiniLMv2 (Wang et al. 2021), section 3.1", _relation_signals, _relations,
    ),
    "progressive": Loss(
        WEIGHTS["progressive"],
        "before all others, in a third of the steps, layer after layer from the lowest up, "
        "with those below frozen: squared error of the layer's output plus KL divergence of its "
        "attention",
        "MobileBERT (Sun et al. 2020), sections 3.4 and 3.6", _layer_signals, _progressive,
        staged="progressive" in STAGED,
    ),
}  # fmt: skip

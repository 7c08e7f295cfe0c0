"""The weights that a student starts from, taken from its teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from canao.errors import InputError
from canao.model.arch import Arch
from canao.model.families.parts import Attention, Embeddings, Inside, Layer, Norm, Parts, both
from canao.model.heads import head_of
from canao.model.hf import arch_of, build_classifier, parts_of, student_config
from canao.train.engine.batches import Batch, Encoded, collate
from canao.train.engine.compute import device_of, in_float64
from canao.train.inheritance.importance import Importance

# The ridge penalty, as a share of the inputs' mean variance, and the number of tokens that weights
# are fitted on. Three of MiniLM's six layers on MRPC start at an accuracy of 0.743, 0.745 and 0.782
# with ridges of 0.001, 0.01 and 0.1; with 4,096 and 16,384 tokens the last is 0.765 and 0.779.
_RIDGE = 0.1
_TOKENS = 8192
_TINY = 1e-12  # keeps a Gram matrix of constant inputs from being singular


@dataclass(frozen=True)
class Kept:
    """What a student keeps of its teacher, as indices into the teacher's dimensions.

    layers      [student layers]   which of the teacher's layers
    hidden      [student hidden]   dimensions of the residual stream
    pooled      [student hidden]   dimensions that the classification head reads
    scores      [width of its heads] for each layer: dimensions of queries and keys, head after head
    values      [width of its heads] for each layer: dimensions of values, head after head
    ffn_units   [its FFN units] for each layer
    """

    layers: tuple[int, ...]
    hidden: Tensor
    pooled: Tensor
    scores: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    ffn_units: tuple[Tensor, ...]


def inherit(
    teacher: PreTrainedModel,
    arch: Arch,
    kept: Kept,
    data: Encoded | None,
) -> PreTrainedModel:
    """A student with the architecture `arch` and weights from `teacher`, which is not changed.

    First the student gets a copy of the weights that `kept` names. Then each linear layer is fitted
    by least squares: from the student's own inputs on some training sequences, it should compute
    what the teacher computes there. This goes from the embeddings up, so that later layers make up
    for what earlier ones lost (the weight update of ZipLM, Kurtic et al. 2023, section 3, applied
    layer by layer to the student's own inputs as in Kwon et al. 2022, section 4.3).

    If `arch` is the teacher's, the student is an exact copy. Without `data` the kept weights are
    copied and nothing is fitted.
    """
    config = student_config(teacher.config, arch)
    device = device_of(teacher)
    with torch.random.fork_rng():
        student = build_classifier(config, head_of(teacher)).eval().to(device)
    if arch == arch_of(teacher.config):
        student.load_state_dict(teacher.state_dict())
        return student
    old, new = parts_of(teacher), parts_of(student)
    with torch.no_grad():
        copy_kept(old, new, kept)
        if data is not None:
            _Fit(old, new, kept, _calibration(data).to(device)).run()
    return student


def keep(
    teacher: Arch, student: Arch, importance: Importance, layers: Sequence[int] | None = None
) -> Kept:
    """What `student` keeps of `teacher`: its most important heads, FFN units and dimensions.

    A head keeps the teacher's head size, or loses its least important dimensions; if the student's
    heads are larger, the dimensions of neighbouring heads are joined. InputError if the student has
    more of something than the teacher.

    `layers` are the teacher's layers to keep. By default they are spaced evenly and end with the
    last, as TinyBERT pairs them (Jiao et al. 2020, section 3). If weights were only copied, the
    lowest layers would be the better start (Wang et al., How to Distill your BERT, ACL 2023). With
    the fit of `inherit` they are not: three of MiniLM's six layers on MRPC start at an accuracy of
    0.65 with the lowest three, 0.72 with the lowest two and the last, and 0.75 with every second
    one (the teacher has 0.81).
    """
    for name in ("layers", "hidden", "heads", "ffn"):
        if getattr(student, name) > getattr(teacher, name):
            raise InputError(
                f"architecture {student}: {name} {getattr(student, name)}, the teacher has "
                f"{getattr(teacher, name)}; a student cannot have more"
            )
    if student.width > teacher.width:
        raise InputError(
            f"architecture {student}: {student.heads} heads of {student.head_size}, the teacher's "
            f"are {teacher.width} wide in all; a student's cannot be wider"
        )
    chosen = tuple(even_layers(teacher.layers, student.layers) if layers is None else layers)
    pairs = [_head_dims(teacher, student.head_size, block.heads, importance, i)
             for i, block in zip(chosen, student.blocks, strict=True)]  # fmt: skip
    return Kept(
        layers=chosen,
        hidden=_best(importance.hidden, student.hidden),
        pooled=_best(importance.pooled, student.hidden),
        scores=tuple(pair[0] for pair in pairs),
        values=tuple(pair[1] for pair in pairs),
        ffn_units=tuple(
            _best(importance.ffn_units[i], block.ffn)
            for i, block in zip(chosen, student.blocks, strict=True)
        ),
    )


def even_layers(layers: int, count: int) -> tuple[int, ...]:
    """Which of so many layers a student with `count` keeps: evenly spaced, the last among them."""
    spacing = layers / count
    return tuple(round((i + 1) * spacing) - 1 for i in range(count))


def share_kept(importance: Importance, kept: Kept) -> float:
    """How much of the teacher's importance is kept: of its heads and FFN units, as a share of that
    in all layers, times the share of its hidden dimensions."""
    total = float(importance.values.sum() + importance.ffn_units.sum())
    found = sum(
        float(importance.values[i][values].sum() + importance.ffn_units[i][units].sum())
        for i, values, units in zip(kept.layers, kept.values, kept.ffn_units, strict=True)
    )
    return found / total * width_kept(importance, kept)


def width_kept(importance: Importance, kept: Kept) -> float:
    """The share of the importance of the teacher's hidden dimensions that is kept."""
    return float(importance.hidden[kept.hidden].sum() / importance.hidden.sum())


def _best(scores: Tensor, count: int) -> Tensor:
    """The indices of the `count` highest scores, in ascending order."""
    return scores.argsort(descending=True, stable=True)[:count].sort().values


def _head_dims(
    teacher: Arch, head_size: int, wanted: int, importance: Importance, layer: int
) -> tuple[Tensor, Tensor]:
    """Which dimensions of a teacher's layer so many heads of that size keep."""
    if not wanted:
        nothing = torch.zeros(0, dtype=torch.long)
        return nothing, nothing
    size, width = min(teacher.head_size, head_size), wanted * head_size
    count = -(-width // size)
    picked = []
    heads = _best(importance.heads[layer], count)
    for scores in (importance.scores[layer], importance.values[layer]):
        rows = scores.view(teacher.heads, teacher.head_size)
        dims = [int(h) * teacher.head_size + _best(rows[h], size) for h in heads]
        picked.append(torch.cat(dims)[:width])
    return picked[0], picked[1]


def copy_kept(old: Parts, new: Parts, kept: Kept) -> None:
    """Copy the kept rows and columns of every weight. Where gradients are computed, and the copies
    ask for none themselves, theirs reach the weights that were copied."""
    hidden = kept.hidden
    copy_embeddings(old.embeddings, new.embeddings, hidden)
    for i, index in enumerate(kept.layers):
        attention, ffn = both(old.layers[index].as_bert())
        if (mine := new.layers[i].attention) is not None:
            scores, values = kept.scores[i], kept.values[i]
            ratio = _score_scale(attention, mine)
            _copy_linear(attention.query, mine.query, scores, hidden, ratio)
            _copy_linear(attention.key, mine.key, scores, hidden, ratio)
            _copy_linear(attention.value, mine.value, values, hidden)
            _copy_linear(attention.output, mine.output, hidden, values)
            _copy_norm(attention.norm, mine.norm, hidden)
        if (own := new.layers[i].ffn) is not None:
            _copy_linear(ffn.up, own.up, kept.ffn_units[i], hidden)
            _copy_linear(ffn.down, own.down, hidden, kept.ffn_units[i])
            _copy_norm(ffn.norm, own.norm, hidden)
    read = hidden  # what the head reads: without a pooler, the hidden states
    if old.pooler is not None and new.pooler is not None:
        _copy_linear(old.pooler, new.pooler, kept.pooled, hidden)
        read = kept.pooled
    new.head.weight.copy_(old.head.weight[:, read])
    new.head.bias.copy_(old.head.bias)


def copy_embeddings(old: Embeddings, new: Embeddings, hidden: Tensor) -> None:
    """Copy embeddings for a student that keeps the dimensions `hidden`; narrow tables are kept as
    they are, and their projection is cut."""
    every = torch.arange(old.words.embedding_dim, device=hidden.device)
    words = hidden if old.projection is None else every
    others = hidden if old.projection is None or old.trigram else every
    new.words.weight.copy_(old.words.weight[:, words])
    new.positions.weight.copy_(old.positions.weight[old.first - new.first :, others])
    if new.types is not None:
        types = new.types.weight
        types.copy_(torch.zeros_like(types) if old.types is None else old.types.weight[:, others])
    _copy_norm(old.norm, new.norm, others)
    if old.projection is not None and new.projection is not None:
        whole = torch.arange(old.projection.in_features, device=hidden.device)
        _copy_linear(old.projection, new.projection, hidden, whole)


def _score_scale(old: Attention, new: Attention) -> float:
    """The factor for queries and keys that makes up for another head size d in 1/sqrt(d).

    If a head lost dimensions, each remaining term of an attention score has the weight it had in
    the teacher. If heads were joined, the score is the mean of theirs, so that attention is as
    sharp as in the teacher.
    """
    before = old.query.out_features / old.heads
    after = new.query.out_features / new.heads
    ratio = after / before
    return ratio**0.25 if ratio <= 1 else ratio**-0.25


def _copy_linear(
    old: nn.Linear, new: nn.Linear, rows: Tensor, columns: Tensor, factor: float = 1.0
) -> None:
    new.weight.copy_(old.weight[rows][:, columns] * factor)
    new.bias.copy_(old.bias[rows] * factor)


def _copy_norm(old: Norm, new: Norm, dims: Tensor) -> None:
    new.weight.copy_(old.weight[dims])
    new.bias.copy_(old.bias[dims])


def _calibration(data: Encoded) -> Batch:
    """The first training examples, until they have enough tokens to fit weights on."""
    total, count = 0, 0
    while count < len(data) and total < _TOKENS:
        total += len(data.ids[count])
        count += 1
    return collate(data, range(count))


class _Fit:
    """Runs teacher and student over the same sequences, layer by layer, and fits the student's
    linear layers and norms to what the teacher computes.

    Hidden states are [real tokens, width]: padding is left out.
    """

    def __init__(self, old: Parts, new: Parts, kept: Kept, batch: Batch) -> None:
        self.old, self.new, self.kept, self.batch = old, new, kept, batch
        self.real = batch.padding_mask.bool()

    def run(self) -> None:
        """Fit everything from the embeddings up to the head."""
        teacher, student = self._embed()
        at = 0
        for i, origin in enumerate(self.kept.layers):
            for skipped in self.old.layers[at:origin]:
                teacher = skipped.inside(teacher, self._attend).end
            teacher, student = self._layer(i, self.old.layers[origin], teacher, student)
            at = origin + 1
        for layer in self.old.layers[at:]:
            teacher = layer.inside(teacher, self._attend).end
        self._top(self._units(teacher), self._units(student))

    def _units(self, states: Tensor) -> Tensor:
        """What pooler or head read of each unit, [units, width]: the first token of a sequence, or
        of each of its words, or the mean of its tokens."""
        lengths = self.real.sum(1)
        if self.old.averages:
            rows = torch.repeat_interleave(lengths)
            sums = states.new_zeros(len(lengths), states.shape[1]).index_add(0, rows, states)
            return sums / lengths[:, None]
        first = lengths.cumsum(0) - lengths
        if self.batch.words is not None:
            rows, places = self.batch.words
            first = first[rows] + places
        return states[first]

    def _layer(self, i: int, old: Layer, teacher: Tensor, student: Tensor) -> tuple[Tensor, Tensor]:
        """What follows a layer in the teacher, and what does in the student once it is fitted.

        The last half that a student's layer has aims at what the teacher's whole layer gives.
        """
        new, hidden = self.new.layers[i], self.kept.hidden
        whole = old.inside(teacher, self._attend)
        seen = old.aims(whole)
        if new.attention is not None:
            assert old.attention is not None
            last = new.ffn is None
            aims = (seen.after, seen.end) if last else (seen.total, seen.middle)
            student = self._attention(i, old.attention, new.attention, seen, student, *aims)
        if new.ffn is not None:
            _fit((new.ffn.up,), student, (seen.up[:, self.kept.ffn_units[i]],))
            own = new.ffn.activation(new.ffn.up(student))
            _fit((new.ffn.down,), own, (seen.after[:, hidden] - student,))
            student = _fit_norm(new.ffn.norm, student + new.ffn.down(own), seen.end[:, hidden])
        return whole.end, student

    def _attention(
        self, i: int, old: Attention, new: Attention, seen: Inside, student: Tensor,
        total: Tensor, end: Tensor,
    ) -> Tensor:  # fmt: skip
        """What follows the student's attention, fitted so that its sum with the residual is near
        `total` and its norm near `end`."""
        kept, hidden, ratio = self.kept, self.kept.hidden, _score_scale(old, new)
        wanted = (
            seen.query[:, kept.scores[i]] * ratio,
            seen.key[:, kept.scores[i]] * ratio,
            seen.value[:, kept.values[i]],
        )
        _fit((new.query, new.key, new.value), student, wanted)
        own = self._attend(new.query(student), new.key(student), new.value(student), new.heads)
        _fit((new.output,), own, (total[:, hidden] - student,))
        return _fit_norm(new.norm, student + new.output(own), end[:, hidden])

    def _top(self, teacher: Tensor, student: Tensor) -> None:
        """Fit pooler and head, on the tokens that are labelled [units, width]."""
        if self.old.pooler is not None and self.new.pooler is not None:
            _fit((self.new.pooler,), student, (self.old.pooler(teacher)[:, self.kept.pooled],))
        logits = self.old.head(self.old.pooled(teacher))
        _fit((self.new.head,), self.new.pooled(student), (logits,))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
        """Attention within each sequence; arguments and result are [real tokens, width]."""
        split = []
        for flat in (query, key, value):
            padded = flat.new_zeros(*self.real.shape, flat.shape[1])
            padded[self.real] = flat
            split.append(padded.unflatten(-1, (heads, -1)).transpose(1, 2))
        mask = self.real[:, None, None, :]
        out = functional.scaled_dot_product_attention(*split, attn_mask=mask)
        return out.transpose(1, 2).flatten(2)[self.real]

    def _embed(self) -> tuple[Tensor, Tensor]:
        """What the first layers read, of teacher and student; the student's norm is fitted where it
        takes the mean of other dimensions than the teacher's does."""
        old, new, hidden = self.old.embeddings, self.new.embeddings, self.kept.hidden
        given = self.batch.ids, self.batch.types
        teacher = old(*given)[self.real]
        if new.projection is not None:
            return teacher, new(*given)[self.real]
        sums = new.sums(*given)[self.real]
        return teacher, _fit_norm(new.norm, sums, teacher[:, hidden])


def _fit_norm(norm: nn.LayerNorm, inputs: Tensor, targets: Tensor) -> Tensor:
    """Fit scale and shift of each dimension to `targets`; returns the norm's new output."""
    x = functional.layer_norm(inputs, norm.normalized_shape, eps=norm.eps)
    spread = x - x.mean(0)
    scale = (spread * (targets - targets.mean(0))).sum(0) / spread.square().sum(0).clamp_min(1e-6)
    norm.weight.copy_(scale)
    norm.bias.copy_(targets.mean(0) - scale * x.mean(0))
    return norm(inputs)


def _fit(linears: Sequence[nn.Linear], inputs: Tensor, targets: Sequence[Tensor]) -> None:
    """Fit linear layers with common `inputs` [n, in] to `targets` [n, out] by ridge regression.

    The penalty is on the change of the weights: minimised is
    |inputs W^T + b - targets|^2 + ridge |W - W0|^2, so that weights that already fit stay.
    """
    mean = inputs.mean(0)
    x = inputs - mean
    gram = in_float64(x.T @ x)
    gram.diagonal().add_(_RIDGE * gram.diagonal().mean() + _TINY)
    weight = torch.cat([linear.weight for linear in linears])
    target = torch.cat(tuple(targets), dim=1)
    missing = target - target.mean(0) - x @ weight.T
    change = torch.cholesky_solve(in_float64(x.T @ missing), torch.linalg.cholesky(gram))
    weight = weight + change.T.to(weight)
    bias = target.mean(0) - weight @ mean
    sizes = [linear.out_features for linear in linears]
    for linear, w, b in zip(linears, weight.split(sizes), bias.split(sizes), strict=True):
        linear.weight.copy_(w)
        linear.bias.copy_(b)

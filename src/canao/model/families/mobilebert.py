"""MobileBERT, whose layers are no BERT layers: attention and several FFNs, one after another, in a
bottleneck that is narrower than the hidden states, and NoNorm (a scale and a shift) for norms.

As an architecture it counts what writes to the bottleneck: its heads, which are narrower together
than the hidden states, and the units of all FFNs of a layer. A student of that very architecture is
a MobileBERT. Any other is of BERT layers (model/blocks.py) on MobileBERT's embeddings. All within a
layer but attention's softmax and the FFNs' activations is affine, so what a head or a unit adds to
the hidden states is known exactly, and BERT layers start from it: their heads and units read and
write hidden states by the products of the matrices between. That all units read what attention
left, where the teacher's later FFNs read what the earlier ones left, is where they differ; the
other difference are BERT's norms, by which students see each token without its scale.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedConfig

from canao.model.arch import Arch, Block
from canao.model.families.family import Family, bert_embeddings
from canao.model.families.parts import (
    Attend,
    Attention,
    Embeddings,
    Ffn,
    Inside,
    Layer,
    Norm,
    whole,
)

# The settings of the published model; of others nothing was ever published.
_ONLY = {
    "trigram_input": True, "use_bottleneck": True, "use_bottleneck_attention": False,
    "key_query_shared_bottleneck": True, "normalization_type": "no_norm",
}  # fmt: skip
_MOST = 3.0  # times the median size of tokens' vectors


class MobileBert(Family):
    """Sun et al. 2020."""

    untrained = ("classifier.", "mobilebert.pooler.")
    halves: Mapping[str, int] = {
        "bottleneck": 0, "attention": 0, "ffn": 1, "intermediate": 1, "output": 1
    }  # fmt: skip

    def refused(self, config: PreTrainedConfig, named: str) -> str:
        for name, only in _ONLY.items():
            if (value := getattr(config, name)) != only:
                return f"{name} is {value!r:.40}; give a MobileBERT with {only!r}"
        if config.num_feedforward_networks < 1:
            return f"num_feedforward_networks is {config.num_feedforward_networks}; give 1 or more"
        if config.intra_bottleneck_size % config.num_attention_heads:
            return (f"intra_bottleneck_size {config.intra_bottleneck_size} is no multiple of its "
                    f"{config.num_attention_heads} heads; correct the file")  # fmt: skip
        return super().refused(config, named)

    def arch(self, config: PreTrainedConfig) -> Arch:
        heads, units = config.num_attention_heads, config.intermediate_size
        block = Block(heads, config.num_feedforward_networks * units)
        size = config.intra_bottleneck_size // max(1, heads)
        return Arch(config.hidden_size, size, (block,) * config.num_hidden_layers)

    def expresses(self, config: PreTrainedConfig, arch: Arch) -> bool:
        return False

    def block_settings(self, config: PreTrainedConfig) -> dict[str, Any]:
        return super().block_settings(config) | {
            "head_activation": "tanh" if config.classifier_activation else "none",
            "embedding_size": config.embedding_size,
            "trigram_input": True,
        }

    def embeddings(self, encoder: Any) -> Embeddings:
        tables = encoder.embeddings
        return bert_embeddings(tables, projection=tables.embedding_transformation, trigram=True)

    def layer(self, module: Any) -> Layer:
        return _layer(module)

    def pooler(self, model: Any) -> tuple[nn.Linear | None, Callable[[Tensor], Tensor]]:
        return getattr(model.base_model.pooler, "dense", None), torch.tanh


@dataclass(frozen=True)
class _Affine:
    """A linear layer and the NoNorm behind it."""

    linear: nn.Linear
    norm: Norm

    def __call__(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.linear(x))
        return out

    def matrix(self) -> tuple[Tensor, Tensor]:
        """Weights and bias of both in one."""
        scale, shift = self.norm.weight, self.norm.bias
        return self.linear.weight * scale[:, None], self.linear.bias * scale + shift


@dataclass(frozen=True)
class BottleneckLayer(Layer):
    """A layer of MobileBERT. Its attention and FFNs are within the bottleneck.

    inward    from hidden states to what the bottleneck's residual begins with
    shared    from hidden states to what queries and keys read; values read hidden states
    outward   from the bottleneck to hidden states, which the layer's input is added to
    """

    inward: _Affine
    shared: _Affine
    outward: _Affine

    @property
    def norms(self) -> tuple[Norm, ...]:
        return (self.outward.norm,)

    def compared(self, state: Tensor) -> Tensor:
        """Each token's without its scale: no norm bounds it, and the published model's first token
        is ten million times as large as others."""
        return functional.layer_norm(state, state.shape[-1:])

    def aims(self, seen: Inside) -> Inside:
        """A student's norms bound its hidden states, and least squares must not see large tokens
        alone."""
        middle, end = self.compared(seen.middle), self.compared(seen.end)
        return Inside(
            _tamed(seen.query), _tamed(seen.key), _tamed(seen.value), middle, middle,
            _tamed(seen.up), end, end,
        )  # fmt: skip

    def as_bert(self) -> Layer:
        """Where gradients are computed, those of its weights reach the weights they are made of."""
        attention, ffns = whole(self)
        out, *downs = self._writes()
        wide, shift = self.shared.matrix()
        query, key = (
            _linear(own.weight @ wide, own.weight @ shift + own.bias)
            for own in (attention.query, attention.key)
        )
        wide, shift = self.inward.matrix()
        ups = torch.cat([ffn.up.weight @ wide for ffn in ffns])
        biases = torch.cat([ffn.up.weight @ shift + ffn.up.bias for ffn in ffns])
        up, down = _linear(ups, biases), _linear(torch.cat(downs, 1))
        norm = nn.LayerNorm(len(out), device=out.device).requires_grad_(False)
        return Layer(
            Attention(query, key, attention.value, _linear(out), norm, attention.heads),
            (Ffn(up, ffns[0].activation, down, norm),),
        )

    def inside(self, state: Tensor, attend: Attend) -> Inside:
        """`total` and `middle` are what the layer would give without what its FFNs add."""
        attention, ffns = whole(self)
        seen = self.shared(state)
        query, key, value = attention.query(seen), attention.key(seen), attention.value(state)
        inner = attention.output(attend(query, key, value, attention.heads))
        inner = attention.norm(inner + self.inward(state))
        ups, added = [], torch.zeros_like(state)
        for ffn, writes in zip(ffns, self._writes()[1:], strict=True):
            ups.append(ffn.up(inner))
            units = ffn.activation(ups[-1])
            inner = ffn.norm(ffn.down(units) + inner)
            added = added + units @ writes.T
        end: Tensor = self.outward.norm(self.outward.linear(inner) + state)
        middle = end - added
        return Inside(query, key, value, middle, middle, torch.cat(ups, 1), end, end)

    def _writes(self) -> list[Tensor]:
        """What heads, and each FFN's units, add to hidden states: [hidden, their width] each."""
        attention, ffns = whole(self)
        # Of what is written, the rest of the layer multiplies each of the bottleneck's dimensions.
        onward = self.outward.linear.weight * self.outward.norm.weight[:, None]
        found = list[Tensor]()
        halves = [(attention.output, attention.norm), *((ffn.down, ffn.norm) for ffn in ffns)]
        for written, norm in reversed(halves):
            onward = onward * norm.weight
            found.insert(0, onward @ written.weight)
        return found


def _tamed(vectors: Tensor) -> Tensor:
    """Vectors of tokens, [tokens, width], none of which is much larger than most."""
    sizes = vectors.square().mean(1, keepdim=True).sqrt()
    return vectors * (_MOST * sizes.median() / sizes.clamp_min(1e-12)).clamp(max=1.0)


def _linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """A linear layer with these weights; without a bias, zeros."""
    size = weight.shape[1], weight.shape[0]
    # Without random numbers, of which the rest of the run draws the same either way.
    made: nn.Linear = nn.utils.skip_init(nn.Linear, *size, device=weight.device)
    # What asks for no gradient may be written to, and then knows where it came from.
    made.requires_grad_(False)
    made.weight.copy_(weight)
    made.bias.copy_(torch.zeros(len(weight)) if bias is None else bias)
    return made


def _layer(module: Any) -> BottleneckLayer:
    own, output, narrow = module.attention.self, module.attention.output, module.bottleneck
    last = Ffn(
        module.intermediate.dense, module.intermediate.intermediate_act_fn, module.output.dense,
        module.output.LayerNorm,
    )  # fmt: skip
    ffns = tuple(
        Ffn(f.intermediate.dense, f.intermediate.intermediate_act_fn, f.output.dense,
            f.output.LayerNorm)
        for f in getattr(module, "ffn", ())
    )  # fmt: skip
    outward = module.output.bottleneck
    return BottleneckLayer(
        Attention(own.query, own.key, own.value, output.dense, output.LayerNorm,
                  own.num_attention_heads),
        (*ffns, last),
        inward=_Affine(narrow.input.dense, narrow.input.LayerNorm),
        shared=_Affine(narrow.attention.dense, narrow.attention.LayerNorm),
        outward=_Affine(outward.dense, outward.LayerNorm),
    )  # fmt: skip

"""Random configurations of every family against Transformers in float32."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from transformers.activations import ACT2CLS

from tests.compiler.families import FAMILIES, HEADS, make
from tests.compiler.test_families import (
    assert_compiled,
    assert_graph,
    other_toolchain,
    stages,
)

# (heads, head size): hidden sizes 8 to 312, odd ones and primes with them.
SIZES = ((1, 8), (3, 8), (5, 8), (2, 10), (1, 14), (1, 37), (4, 12), (2, 24), (3, 32), (1, 64),
         (2, 64), (1, 128), (2, 128), (12, 26), (39, 8))  # fmt: skip
# Families whose configuration has another activation, or none.
OWN_ACTIVATION = {"ModernBert": "hidden_activation", "DistilBert": "activation"}
# Those that keep what they do not read: types are not theirs, or only with other settings.
NO_TYPES = ("DistilBert", "MPNet", "ModernBert")
Drawn = tuple[str, str, dict[str, Any]]


@st.composite
def configurations(draw: st.DrawFn) -> Drawn:
    """A family, a head, and what to change in the family's configuration."""
    family = draw(st.sampled_from(list(FAMILIES)))
    heads, size = draw(st.sampled_from(SIZES))
    width, longest = heads * size, draw(st.integers(24, 200))
    changes = {
        "num_attention_heads": heads,
        "hidden_size": width,
        "num_hidden_layers": draw(st.integers(1, 3)),
        "intermediate_size": draw(st.integers(9, 130)),
        "vocab_size": draw(st.sampled_from((37, 99, 1000, 30_011))),
        "max_position_embeddings": longest,
        "tie_word_embeddings": draw(st.booleans()),
        "pad_token_id": draw(st.integers(0, 9)),
        OWN_ACTIVATION.get(family, "hidden_act"): draw(st.sampled_from(list(ACT2CLS))),
    }
    if family not in NO_TYPES:
        changes["type_vocab_size"] = draw(st.sampled_from((1, 2, 16)))
    changes |= draw(OF_FAMILY.get(family, st.just({})))
    return family, draw(st.sampled_from(HEADS)), _renamed(family, changes)


def _renamed(family: str, changes: dict[str, Any]) -> dict[str, Any]:
    """The names that a family has for what others call otherwise."""
    width, heads = changes["hidden_size"], changes["num_attention_heads"]
    if family == "DistilBert":
        names = {"hidden_size": "dim", "num_attention_heads": "n_heads",
                 "num_hidden_layers": "n_layers", "intermediate_size": "hidden_dim"}  # fmt: skip
        return {names.get(k, k): v for k, v in changes.items()}
    if family == "SqueezeBert":
        groups = dict.fromkeys(("q_groups", "k_groups", "v_groups", "post_attention_groups"), heads)
        groups |= {"intermediate_groups": 1, "output_groups": 1}
        return changes | groups | {"embedding_size": width}
    if family == "MobileBert":
        return changes | {"intra_bottleneck_size": width, "hidden_size": width + 12}
    if family == "ModernBert" and width // heads % 2:
        return changes | {"hidden_size": width + heads}
    if family == "ConvBert" and heads % 2:
        return changes | {"num_attention_heads": 2 * heads, "hidden_size": 2 * width}
    return changes


OF_FAMILY: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "ModernBert": st.fixed_dictionaries({
        "local_attention": st.integers(1, 40).map(lambda n: 2 * n),
        "global_attn_every_n_layers": st.integers(1, 3),
    }),
    "DebertaV2": st.fixed_dictionaries({
        "pos_att_type": st.sampled_from((["c2p"], ["p2c"], ["p2c", "c2p"], [])),
        "share_att_key": st.booleans(),
        "position_buckets": st.sampled_from((-1, 8, 16)),
        "max_relative_positions": st.sampled_from((-1, 20, 64)),
        "position_biased_input": st.booleans(),
    }),
    "MPNet": st.fixed_dictionaries({"relative_attention_num_buckets": st.sampled_from((8, 32))}),
    "Electra": st.fixed_dictionaries({"embedding_size": st.integers(5, 40)}),
    "Albert": st.fixed_dictionaries({
        "embedding_size": st.integers(5, 40),
        "num_hidden_groups": st.just(1),
        "inner_group_num": st.integers(1, 2),
    }),
    "MobileBert": st.fixed_dictionaries({
        "embedding_size": st.integers(5, 40),
        "trigram_input": st.booleans(),
        "num_feedforward_networks": st.integers(1, 4),
        "normalization_type": st.sampled_from(("no_norm", "layer_norm")),
    }),
    "ConvBert": st.fixed_dictionaries({
        "embedding_size": st.integers(5, 40),
        "conv_kernel_size": st.sampled_from((3, 5, 9)),
    }),
}  # fmt: skip


# How many are drawn: graphs and libraries, and how many more with the mark `thorough`.
GRAPHS, LIBRARIES = 8, 4
MORE_GRAPHS, MORE_LIBRARIES = 40, 20


def _settings(examples: int) -> settings:
    """What fails is shown as it was drawn: to look for less would compile for minutes."""
    return settings(max_examples=examples, phases=(Phase.generate,), deadline=None,
                    derandomize=True, suppress_health_check=list(HealthCheck))  # fmt: skip


@_settings(GRAPHS)
@given(configurations())
def test_graphs(drawn: Drawn) -> None:
    """The rewritten graph, computed in NumPy."""
    _assert_graph(drawn)


@pytest.mark.thorough
@_settings(MORE_GRAPHS)
@given(configurations())
def test_more_graphs(drawn: Drawn) -> None:
    _assert_graph(drawn)


def _assert_graph(drawn: Drawn) -> None:
    family, head, changes = drawn
    model = make(family, head, **changes)
    staged = stages(model)
    assert_graph(model, staged, (1, 8, staged.program.graph.max_length))


@_settings(LIBRARIES)
@given(configurations())
def test_libraries(drawn: Drawn) -> None:
    _assert_library(drawn)


@pytest.mark.thorough
@_settings(MORE_LIBRARIES)
@given(configurations())
def test_more_libraries(drawn: Drawn) -> None:
    _assert_library(drawn)


def _assert_library(drawn: Drawn) -> None:
    family, head, changes = drawn
    model = make(family, head, **changes)
    with tempfile.TemporaryDirectory() as folder:
        assert_compiled(model, Path(folder), (1, 8, 17), toolchain=other_toolchain())

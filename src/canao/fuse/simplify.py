"""The graph that a compilation goes on with: rules applied, before precision and regions."""

from __future__ import annotations

import numpy as np

from canao.defaults import Limits
from canao.fuse.rewrite import Firing, apply, shared, stored
from canao.fuse.rules.algebra import ALGEBRA, CLEANUP
from canao.graph.bounds import require_bounds
from canao.graph.ir import Graph
from canao.graph.resume import resuming


def rewritten(
    graph: Graph, fusion: bool, limits: Limits
) -> tuple[Graph, Graph, tuple[Firing, ...]]:
    """The captured graph without what computes nothing, the same ready for a precision and for
    regions, and the rules that fired."""
    with np.errstate(all="ignore"):  # constants may overflow: what is wrong with them is said later
        cleaned, cleanup = apply(graph, CLEANUP, limits)
        cleaned = resuming(cleaned)
        simpler, algebra = apply(cleaned, ALGEBRA, limits) if fusion else (cleaned, ())
        float32 = stored(require_bounds(shared(simpler) if fusion else simpler))
    return cleaned, float32, (*cleanup, *algebra)

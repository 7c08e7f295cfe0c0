"""How the budget is used: what misses it narrowly is repaired, and the best candidate is polished.

A controller learns where good candidates are, not where the last microseconds of a budget are. Both
steps here move by steps of the space, and ask the latency table before anything is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

from canao.model.arch import Arch
from canao.search.candidates.space import Space
from canao.search.candidates.trial import Trial, best_first

_SIZES = ("layers", "hidden", "ffn")
_RINGS = 3  # steps from what missed the budget, at most
_POLISHED = 0.25  # of the proxy scores of a search, or of its time
_ALIKE = 0.03  # of the budget: what the table cannot tell apart
_FULL = 0.9  # of the budget: a move that leaves more of it free is no use of it

Expect = Callable[[Arch, Trial], float]  # milliseconds of one, by the table or a measured one


def repaired(
    space: Space, missed: Trial, trials: Sequence[Trial], expected: Expect, most_ms: float
) -> Arch | None:
    """The nearest architecture to one that missed the budget which is expected to keep `most_ms`
    and was not judged: one step smaller in some dimension, or two, three. Of equally near ones it
    is the slowest, which gives up least. None if there is none so near.
    """
    known, ring, seen = {trial.arch for trial in trials}, [missed.arch], {missed.arch}
    for _ in range(_RINGS):
        near = dict.fromkeys(small for one in ring for small in _smaller(space, one))
        ring = [arch for arch in near if arch not in seen]
        seen.update(ring)
        timed = [(expected(arch, missed), arch) for arch in ring if arch not in known]
        kept = [pair for pair in timed if pair[0] <= most_ms]
        if kept:
            return max(kept)[1]
    return None


def polishing(trials: Sequence[Trial], asked: int, minutes: float = 0.0) -> bool:
    """Whether a search for so many proxy scores, in so many minutes (0: any), has come to its last
    part, in which candidates are neighbours of the best one."""
    done = sum(trial.trained for trial in trials)
    spent = sum(trial.seconds for trial in trials) / 60
    late = 0 < (1 - _POLISHED) * minutes <= spent
    return done > 0 and (late or done >= asked - int(_POLISHED * asked))


def polished(
    space: Space, trials: Sequence[Trial], expected: Expect, budget_ms: float,
    worth: Callable[[Arch], float], under_way: Collection[Arch] = (),
) -> Arch | None:  # fmt: skip
    """The next candidate near the best one: a step away from it in one dimension, or larger in one
    and smaller in another, so that what is saved in one place is spent in another. The same is done
    with single blocks. Of those that were not judged and are expected to keep the budget, the one
    that uses most of it; of those that use as much but for 3 %, the one of most `worth`, which says
    how much of the teacher's importance is kept. None if no one is left that uses as much as the
    best one, or nine tenths of the budget. What is `under_way` is judged already.
    """
    best = best_first(trials)[0]
    known = {trial.arch for trial in trials} | set(under_way)
    near = [arch for arch in dict.fromkeys(_moves(space, best.arch)) if arch not in known]
    timed = [(expected(arch, best), arch) for arch in near]
    least = min(_FULL * budget_ms, expected(best.arch, best))
    kept = [pair for pair in timed if least <= pair[0] <= budget_ms]
    if not kept:
        return None
    full = max(kept)[0] - _ALIKE * budget_ms
    return max((worth(arch), ms, arch) for ms, arch in kept if ms >= full)[2]


def _smaller(space: Space, arch: Arch) -> Iterator[Arch]:
    """A step smaller in layers, width or FFN, with heads of the same size, or in a single block."""
    for near in space.neighbours(arch) if space.contains(arch) else ():
        no_larger = all(getattr(near, n) <= getattr(arch, n) for n in _SIZES)
        if no_larger and near.head_size == arch.head_size:
            yield near
    yield from (near for near in space.block_moves(arch) if near.no_larger_than(arch))


def _moves(space: Space, arch: Arch) -> Iterator[Arch]:
    """All steps in one dimension, then pairs of a step up in one and a step down in another, and
    the same with single blocks."""
    yield from space.block_moves(arch)
    for near in space.neighbours(arch) if space.contains(arch) else ():
        yield near
        for further in space.neighbours(near):
            ups = sum(getattr(further, n) > getattr(arch, n) for n in _SIZES)
            downs = sum(getattr(further, n) < getattr(arch, n) for n in _SIZES)
            if ups == downs == 1 and further.head_size == arch.head_size:
                yield further

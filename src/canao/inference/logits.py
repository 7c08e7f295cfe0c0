"""What happens to the logits of the next token before it is chosen, as in Transformers' generate.

A step takes the tokens so far, [n], and the scores of the next one, float32 [vocabulary], and
returns new scores; -inf rules a token out. `steps` lists what always counts, `narrowing` what
counts only where tokens are drawn, each in the order of Transformers, on which results depend.
Everything is computed in float32, as there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

Step = Callable[[np.ndarray, np.ndarray], np.ndarray]
Settings = Mapping[str, Any]
_NEVER = np.float32(-np.inf)
# The most tokens that top_h looks at.
_TOP_H = 100


def steps(
    settings: Settings, prompt: np.ndarray, longest: int, ends: Collection[int]
) -> list[Step]:
    """The steps for a sequence that begins with `prompt`, of `longest` tokens at most in all."""
    s, last = settings, list(ends)
    first = len(prompt)
    # The count of new tokens counts in place of the other, even if it asks for fewer.
    new = s["min_new_tokens"]
    fewest = s["min_length"] or 0 if new is None else first + new
    bad = [[*w] for w in s["bad_words_ids"] or () if [*w] not in [[e] for e in last]]
    free = first + (1 if first == 1 and s["forced_bos_token_id"] is not None else 0)
    found: list[tuple[Any, Step]] = [
        (s["sequence_bias"], _biased(s["sequence_bias"] or ())),
        (s["encoder_repetition_penalty"] != 1,
         _penalised(1 / s["encoder_repetition_penalty"], prompt)),
        (s["repetition_penalty"] != 1, _penalised(s["repetition_penalty"])),
        (s["no_repeat_ngram_size"], _unrepeated(s["no_repeat_ngram_size"])),
        (s["encoder_no_repeat_ngram_size"],
         _unrepeated(s["encoder_no_repeat_ngram_size"], prompt)),
        (bad, _biased([(sequence, -np.inf) for sequence in bad])),
        (fewest > first and last, _without(last, lambda n: n < fewest)),
        (s["forced_bos_token_id"] is not None,
         _only(_listed(s["forced_bos_token_id"]), lambda n: n == 1)),
        (s["forced_eos_token_id"] is not None,
         _only(_listed(s["forced_eos_token_id"]), lambda n: n == longest - 1)),
        (s["remove_invalid_values"], _finite),
        (s["exponential_decay_length_penalty"] and last,
         _likelier(last, s["exponential_decay_length_penalty"] or (0, 1.0), first)),
        (s["suppress_tokens"], _without(s["suppress_tokens"] or (), lambda n: True)),
        (s["begin_suppress_tokens"],
         _without(s["begin_suppress_tokens"] or (), lambda n: n == free)),
    ]  # fmt: skip
    return [step for counts, step in found if counts]


def narrowing(settings: Settings) -> list[Step]:
    """The steps that leave fewer tokens to draw from."""
    s = settings
    found: list[tuple[Any, Callable[[np.ndarray], np.ndarray]]] = [
        (s["temperature"] != 1, lambda x: x / np.float32(s["temperature"])),
        (s["top_h"] is not None, lambda x: _top_h(x, s["top_h"])),
        (s["top_k"], lambda x: _top_k(x, s["top_k"])),
        (s["top_p"] < 1, lambda x: _top_p(x, s["top_p"])),
        (s["min_p"] is not None, lambda x: _min_p(x, s["min_p"])),
        (s["typical_p"] < 1, lambda x: _typical(x, s["typical_p"])),
        (0 < s["epsilon_cutoff"] < 1, lambda x: _at_least(x, s["epsilon_cutoff"])),
        (0 < s["eta_cutoff"] < 1, lambda x: _eta(x, s["eta_cutoff"])),
    ]
    return [_plain(step) for counts, step in found if counts]


def softmax(scores: np.ndarray) -> np.ndarray:
    """Probabilities over the last axis, in the precision of the scores."""
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def _plain(function: Callable[[np.ndarray], np.ndarray]) -> Step:
    return lambda ids, scores: function(scores)


def _listed(value: int | Sequence[int] | None) -> Sequence[int]:
    if value is None:
        return ()
    return (value,) if isinstance(value, int) else value


def _inside(tokens: Sequence[int] | np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Those tokens that the model can write at all."""
    found = np.unique(np.asarray(tokens, np.int64))
    return found[(found >= 0) & (found < len(scores))]


def _biased(sequences: Sequence[tuple[Sequence[int], float]]) -> Step:
    """A number is added where the token would complete a sequence."""
    by_tokens = {tuple(tokens): np.float32(number) for tokens, number in sequences}
    single = {tokens[0]: number for tokens, number in by_tokens.items() if len(tokens) == 1}
    longer = [(np.array(t[:-1]), t[-1], number) for t, number in by_tokens.items() if len(t) > 1]

    def step(ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        bias = np.zeros_like(scores)
        bias[list(single)] = list(single.values())
        for before, last, number in longer:
            if len(before) <= len(ids) and (ids[-len(before) :] == before).all():
                bias[last] += number
        return scores + bias

    return step


def _penalised(penalty: float, tokens: np.ndarray | None = None) -> Step:
    """Scores of `tokens`, or of all tokens so far, are made smaller by a factor."""
    factor = np.float32(penalty)

    def step(ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        seen, out = _inside(ids if tokens is None else tokens, scores), scores.copy()
        old = scores[seen]
        out[seen] = np.where(old < 0, old * factor, old / factor)
        return out

    return step


def _unrepeated(size: int, given: np.ndarray | None = None) -> Step:
    """No sequence of `size` tokens of `given`, or of all tokens so far, comes again."""

    def step(ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        source = ids if given is None else given
        if len(source) < size or len(ids) < size - 1:
            return scores
        windows = np.lib.stride_tricks.sliding_window_view(source, size)
        before = ids[len(ids) + 1 - size :]
        again = windows[(windows[:, :-1] == before).all(-1), -1]
        return _ruled_out(scores, again)

    return step


def _ruled_out(scores: np.ndarray, tokens: Sequence[int] | np.ndarray) -> np.ndarray:
    out = scores.copy()
    out[_inside(tokens, scores)] = _NEVER
    return out


def _without(tokens: Sequence[int], when: Callable[[int], bool]) -> Step:
    """These tokens do not come while `when` holds for the count of tokens so far."""
    return lambda ids, scores: _ruled_out(scores, tokens) if when(len(ids)) else scores


def _only(tokens: Sequence[int], when: Callable[[int], bool]) -> Step:
    """One of these tokens comes when `when` holds for the count of tokens so far."""

    def step(ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        if not when(len(ids)):
            return scores
        out = np.full_like(scores, _NEVER)
        out[_inside(tokens, scores)] = 0
        return out

    return step


def _finite(ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
    most = np.finfo(np.float32).max
    return np.nan_to_num(scores, nan=0.0, posinf=most, neginf=-most)


def _likelier(ends: Sequence[int], decay: Sequence[float], prompt: int) -> Step:
    """End tokens gain on the others from a number of tokens on, exponentially."""
    start, base = prompt + int(decay[0]), np.float64(decay[1])

    def step(ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
        if len(ids) <= start:
            return scores
        out, places = scores.copy(), _inside(ends, scores)
        with np.errstate(over="ignore", invalid="ignore"):
            more = np.abs(scores[places]) * np.float32(base ** (len(ids) - start) - 1)
            out[places] += np.where(np.isfinite(scores[places]), more, np.float32(0))
        return out

    return step


def _kept(scores: np.ndarray, kept: np.ndarray) -> np.ndarray:
    return np.where(kept, scores, _NEVER)


def _top_k(scores: np.ndarray, count: int) -> np.ndarray:
    """The `count` largest, and those as large as the last of them."""
    count = min(count, len(scores))
    return _kept(scores, scores >= np.partition(scores, -count)[-count])


def _top_p(scores: np.ndarray, share: float) -> np.ndarray:
    """The fewest that together have at least the probability `share`."""
    order = np.argsort(scores, kind="stable")
    below = np.cumsum(softmax(scores)[order], dtype=np.float32)
    kept = np.empty(len(scores), np.bool_)
    kept[order] = below > np.float32(1 - share)
    kept[order[-1]] = True
    return _kept(scores, kept)


def _min_p(scores: np.ndarray, part: float) -> np.ndarray:
    """Those whose probability is at least this part of the largest."""
    p = softmax(scores)
    kept = p >= np.float32(part) * p.max()
    kept[p.argmax()] = True
    return _kept(scores, kept)


def _logs(scores: np.ndarray) -> np.ndarray:
    """Logarithms of the probabilities."""
    shifted = scores - scores.max()
    return shifted - np.log(np.exp(shifted).sum())


def _entropy(logs: np.ndarray) -> np.float32:
    p = np.exp(logs)
    return np.float32(-(p * np.where(p > 0, logs, np.float32(0))).sum())


def _top_h(scores: np.ndarray, part: float) -> np.ndarray:
    """Of the most probable, those that together have this part of their entropy."""
    order = np.argsort(-scores, kind="stable")[:_TOP_H]
    logs = _logs(scores[order])
    with np.errstate(invalid="ignore"):
        terms = np.cumsum(-np.exp(logs) * logs, dtype=np.float32)
    kept = np.zeros(len(scores), np.bool_)
    kept[order] = terms <= _entropy(logs) * np.float32(part)
    kept[order[0]] = True
    return _kept(scores, kept)


def _typical(scores: np.ndarray, mass: float) -> np.ndarray:
    """The tokens whose information is nearest to the entropy, that together have this mass."""
    logs = _logs(scores)
    distance = np.abs(-logs - _entropy(logs))
    order = np.argsort(distance, kind="stable")
    sums = np.cumsum(softmax(scores)[order], dtype=np.float32)
    last = min(int((sums < np.float32(mass)).sum()), len(scores) - 1)
    kept = distance <= distance[order[last]]
    kept[order[0]] = True
    return _kept(scores, kept)


def _at_least(scores: np.ndarray, probability: float) -> np.ndarray:
    """Those of at least this probability, or the most probable."""
    return _kept(scores, (softmax(scores) >= np.float32(probability)) | (scores == scores.max()))


def _eta(scores: np.ndarray, cutoff: float) -> np.ndarray:
    e = np.float32(cutoff)
    return _at_least(scores, min(e, np.sqrt(e) * np.exp(-_entropy(_logs(scores)))))

"""The names of the losses of distillation, and how options write them. Loads no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

from canao.errors import InputError

# By name, in the order in which losses are shown: the weight of each where none is given. What they
# are is in distillation/losses.py.
WEIGHTS: Mapping[str, float] = MappingProxyType({
    "logits": 1.0, "labels": 0.5, "hidden": 1.0, "attention": 1.0, "relations": 1.0,
    "progressive": 1.0,
})  # fmt: skip
STAGED = frozenset(["progressive"])  # trained on by themselves before the others
OF_TASK = frozenset(["logits", "labels"])  # which plain text has none of


class NamedLosses:
    """Options that say in `losses` what is trained on."""

    losses: str

    @property
    def weights(self) -> dict[str, float]:
        """The weights of the losses by name, all above 0."""
        return parse_losses(self.losses)


def parse_losses(text: str) -> dict[str, float]:
    """Weights above 0 by name, in the table's order, of a text such as 'logits,relations=0.5'.

    InputError for a name that is unknown or stands twice, a weight that is no finite number from 0,
    and losses that leave nothing to train on.
    """
    found: dict[str, float] = {}
    for item in text.split(","):
        name, given, weight = (part.strip() for part in item.partition("="))
        if name not in WEIGHTS:
            raise InputError(
                f"training: loss '{name[:40]}' is not one of {', '.join(WEIGHTS)}; give names with "
                "commas between them"
            )
        if name in found:
            raise InputError(f"training: loss '{name}' stands twice; give it once")
        found[name] = _weight(name, weight) if given else WEIGHTS[name]
    kept = {name: found[name] for name in WEIGHTS if found.get(name, 0.0) > 0}
    if not kept:
        raise InputError("training: every loss has weight 0; give one a weight above 0")
    if all(name in STAGED for name in kept):
        first = next(iter(kept))
        raise InputError(
            f"training: '{first}' comes before other losses; add one, as {first},logits"
        )
    return kept


def canonical(text: str) -> str:
    """The same losses and weights, always written alike; InputError as `parse_losses`."""
    return ",".join(
        f"{name}={repr(weight).removesuffix('.0')}" for name, weight in parse_losses(text).items()
    )


def _weight(name: str, text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not (math.isfinite(weight) and weight >= 0):
        raise InputError(
            f"training: the weight of loss '{name}' is '{text[:40]}'; give a number from 0, as "
            f"{name}={WEIGHTS[name]:g}"
        )
    return weight

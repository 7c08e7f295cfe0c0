"""How a student is distilled on plain text. Loads no torch: the command line reads it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from canao.errors import InputError
from canao.train.loss_names import OF_TASK, WEIGHTS, NamedLosses, canonical
from canao.train.options import DEVICES, DTYPES

DEFAULT_LOSSES = "hidden=1,relations=1"


@dataclass(frozen=True)
class GeneralOptions(NamedLosses):
    """How a student is distilled on plain text.

    tokens          that it sees in all; a text with fewer is gone through several times
    length          tokens of a piece of text; longer lines are cut into pieces
    losses          by name, as in losses.py, without those of logits and labels
    device, dtype   as in TrainOptions
    """

    tokens: int = 10_000_000
    length: int = 128
    batch: int = 32
    lr: float = 3e-4
    losses: str = DEFAULT_LOSSES
    seed: int = 0
    device: str = "auto"
    dtype: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("tokens", 1), ("length", 8), ("batch", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise InputError(f"distil: {name} is {getattr(self, name)}, least is {least}")
        if not 0 < self.lr < 1:
            raise InputError(f"distil: lr is {self.lr:g}; give 0 < rate < 1")
        for name, known in (("device", DEVICES), ("dtype", DTYPES)):
            if getattr(self, name) not in known:
                raise InputError(
                    f"distil: {name} is '{getattr(self, name)}'; give {', '.join(known)}"
                )
        object.__setattr__(self, "losses", canonical(self.losses))
        for name in self.weights:
            if name in OF_TASK:
                able = ", ".join(n for n in WEIGHTS if n not in OF_TASK)
                raise InputError(
                    f"distil: the loss '{name}' is of a task, and plain text has none; give some "
                    f"of {able}"
                )

    def facts(self) -> dict[str, Any]:
        """What the student depends on: all but where and in which numbers it is computed."""
        facts = asdict(self)
        for name in ("device", "dtype", "threads"):
            del facts[name]
        return facts

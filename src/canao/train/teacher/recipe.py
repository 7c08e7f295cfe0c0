"""How a teacher is fine-tuned where nobody says how: chosen by its width and the task's size.

What is good for a teacher is found, not asked for: the learning rate by a race between two, the
number of epochs by early stopping, both on examples that are held out of the training set, never on
the development set that scores are reported on. Small sets need many epochs, and steps with bias
correction and a warm-up (Zhang et al. 2021, "Revisiting Few-sample BERT Fine-tuning"; Mosbach et
al. 2021, "On the Stability of Fine-tuning BERT"). Loads no torch.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

VERSION = 1  # raise it when a change makes teachers incomparable with stored ones
_TOKENS = 1_400_000  # that all training may cost: meant to be 12 minutes of MiniLM on two cores
_STEP = 200  # tokens that take as long as what a step does once: gradients' norm and AdamW
_EPOCHS = (3, 20)  # fewest and most
_RACED = 5  # epochs below which nothing is left for a race
_FULL = 12  # epochs for which every rate may be trained to its end, and the best one once more
_PATIENCE = (3, 3)  # epochs at least, and one of so many: scores rise again as the rate falls
_HEAD = (20, 1000)  # epochs and steps that a head alone has at least, on
HEAD_BATCH = 32  # states at a time
_WIDTH, _RATE = 768, 2.5e-5  # BERT's base size, and the smaller of the two rates of its race
_RATE_LIMIT = 1e-3
_BATCHES, _LARGE = (16, 32), 5000  # from so many examples on, the larger batch
_MANY = 10  # classes beyond which there are many
_HELD = (100, 2000)  # examples that are held out: fewest and most of a tenth,
_HELD_MOST = 4  # but no more than one of so many,
_HELD_LEAST = 20  # and none where that leaves less: so few say nothing


@dataclass(frozen=True)
class TeacherRecipe:
    """How one teacher is fine-tuned.

    held       training examples that are held out, to choose by; 0: nothing is chosen
    batch      examples a step
    rates      learning rates that race, the first one being taken where none can
    trial      epochs of the race, after which the best rate goes on alone; the schedule is that of
               all epochs
    epochs     most epochs
    patience   epochs in a row without a better held-out score that end training
    head       epochs in which the new head is trained first, on states computed once; 0: none
    whole      whether the teacher is trained anew on all examples in the end, held-out ones
               included, at the best rate for the best number of epochs
    """

    held: int
    batch: int
    rates: tuple[float, ...]
    trial: int
    epochs: int
    patience: int
    head: int
    whole: bool

    def facts(self) -> dict[str, Any]:
        """In JSON form."""
        return asdict(self) | {"rates": list(self.rates)}


def recipe_for(
    examples: int, tokens: int, classes: int, holdable: int, width: int
) -> TeacherRecipe:
    """The recipe for a training set.

    examples, tokens   of the training set
    classes            0 for values
    holdable           examples that can be held out, as each class keeps one
    width              hidden size of the teacher
    """
    held = min(max(_HELD[0], min(_HELD[1], examples // 10)), examples // _HELD_MOST, holdable)
    held = held if held >= _HELD_LEAST else 0
    rates = _rates(width)
    batch, trained = _BATCHES[examples >= _LARGE], examples - held
    cost = tokens * trained / examples + _STEP * -(-trained // batch)  # of an epoch
    affordable = _TOKENS / cost  # epochs
    runs = len(rates) + 1  # where every rate runs to its end, and the best one once more on all
    small = bool(held) and affordable >= _FULL * runs
    raced = bool(held) and affordable >= _RACED
    left = affordable / runs if small else affordable - (len(rates) - 1) * raced
    epochs = max(_EPOCHS[0], min(_EPOCHS[1], round(left)))
    return TeacherRecipe(
        held=held,
        batch=batch,
        rates=rates if raced else rates[:1],
        trial=(epochs if small else 1) if raced else 0,
        epochs=epochs,
        patience=max(_PATIENCE[0], epochs // _PATIENCE[1]) if held else 0,
        head=max(_HEAD[0], -(-_HEAD[1] * HEAD_BATCH // trained)) if classes > _MANY else 0,
        whole=small,
    )


def _rates(width: int) -> tuple[float, float]:
    """Narrow models bear higher rates, in proportion: BERT's own lie at 2e-5 to 5e-5, those of its
    miniatures at up to 3e-4 (Turc et al. 2019)."""
    first = min(float(f"{_RATE * _WIDTH / width:.2g}"), _RATE_LIMIT)
    return first, 2 * first

"""How a teacher and its students are trained. Loads no torch: the command line reads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from canao.defaults import PRECISION
from canao.errors import InputError
from canao.train.loss_names import NamedLosses, canonical

TrainProgress = Callable[[str, int, int, str], None]  # stage, steps done, steps in all, note
DEVICES = ("auto", "cpu", "cuda", "mps")
FLOAT32, BF16 = "float32", "bf16"
DTYPES = ("auto", FLOAT32, BF16)
RANKERS = ("short", "supernet", "fitted", "pruning")
DEFAULT_LOSSES = "logits=1,labels=0.5,hidden=1"
_MOST_COPIES = 100
RELATION_HEADS = 48  # as many as MiniLMv2 has for a teacher of BERT base's size
# Of the spoken commands' students, pruned ones score 8.7 points less with what training texts use
# alone, and 3.2 less with so many tokens, for a quarter of the rows (docs/training.md).
LEAST_TOKENS = 8000
_EPOCHS, _RATE = 3, 5e-5  # of BERT's own fine-tuning (Devlin et al. 2019, appendix A.3)


@dataclass(frozen=True)
class TrainOptions(NamedLosses):
    """How the teacher and its students are trained.

    max_length     tokens; longer sequences are truncated
    batch          examples a step, of students and of a teacher whose epochs or rate are given
    teacher_epochs, teacher_lr   of the teacher's fine-tuning; None, both: as teacher/recipe.py
                   chooses. Where only one is given, the other is BERT's: 3 epochs, a rate of 5e-5
    metric         the one that ranks candidates; None: the task's usual one (see metrics.py)
    ranker         what candidates' proxy scores are: see ranking/rankers.py
    quick_steps    optimiser steps behind each candidate's proxy score, with the ranker 'short'
    supernet_steps   steps in which the supernet is trained, with the ranker 'supernet'
    final_epochs   passes over the training set for a finalist
    threads        of torch; None: as torch is set, which is one per core
    device         cpu, cuda or mps; auto: a GPU if there is one
    dtype          of products in training, float32 or bf16; auto: bf16 where that is faster.
                   Weights, norms and losses are in float32
    precision      of the libraries that finalists become
    quantized_epochs   the last of `final_epochs`, in which a finalist is rounded as its library
                   will be, if that precision rounds; None: a third of them, one at least
    losses         of the distillation, by name and with weights, as 'logits=1,relations=0.5'
                   (distillation/losses.py has them all); here they are written in one way only
    relation_heads   parts that `relations` cuts vectors into; no more than they have dimensions
    relation_layer   the teacher's, counted from 1, that `relations` compares with; None: its last
    augment        altered copies of each training example, which finalists learn from the teacher
    augment_model  directory of a masked language model that says which words may stand in them;
                   None: words near in the teacher's embeddings
    prune_vocabulary   students keep those rows of the word embeddings alone that the training
                   texts use, and what any other text needs (inheritance/vocabulary.py)
    vocabulary     tokens that they keep then at least: the teacher's commonest beside those;
                   0: none beside them
    """

    max_length: int = 128
    batch: int = 32
    teacher_epochs: int | None = None
    teacher_lr: float | None = None
    quick_steps: int = 48
    final_epochs: int = 5
    student_lr: float = 1e-4
    seed: int = 0
    metric: str | None = None
    threads: int | None = None
    device: str = "auto"
    dtype: str = "auto"
    precision: str = PRECISION
    quantized_epochs: int | None = None
    losses: str = DEFAULT_LOSSES
    relation_heads: int = RELATION_HEADS
    relation_layer: int | None = None
    augment: int = 0
    augment_model: str | None = None
    ranker: str = "short"
    supernet_steps: int = 400
    prune_vocabulary: bool = False
    vocabulary: int = LEAST_TOKENS

    def __post_init__(self) -> None:
        for name in ("max_length", "batch", "teacher_epochs", "quick_steps", "supernet_steps",
                     "final_epochs"):  # fmt: skip
            least, value = 8 if name == "max_length" else 1, getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"training: {name} is {value}, least is {least}")
        for name in ("teacher_lr", "student_lr"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise InputError(f"training: {name} is {value:g}; give 0 < rate < 1")
        for name, known in (("device", DEVICES), ("dtype", DTYPES), ("ranker", RANKERS)):
            if getattr(self, name) not in known:
                raise InputError(
                    f"training: {name} is '{getattr(self, name)}'; give {', '.join(known)}"
                )
        if self.threads is not None and self.threads < 1:
            raise InputError(f"training: threads is {self.threads}, least is 1")
        if self.precision != PRECISION:
            # It loads SciPy, which the command line must not.
            from canao.precision.quantize import check_precision

            check_precision(self.precision)
        if self.quantized_epochs is not None and not (
            0 <= self.quantized_epochs <= self.final_epochs
        ):
            raise InputError(
                f"training: quantized_epochs is {self.quantized_epochs}; give 0 to "
                f"{self.final_epochs}, the epochs of the final training"
            )
        self._check_losses()
        self._check_ranker()
        self._check_vocabulary()
        if not 0 <= self.augment <= _MOST_COPIES:
            raise InputError(
                f"training: augment is {self.augment}; give 0 to {_MOST_COPIES} copies of each "
                "example"
            )
        if self.augment_model is not None and not self.augment:
            raise InputError(
                f"training: augment_model is {self.augment_model}, and augment is 0; say how many "
                "copies of each example it is to make, or leave it out"
            )

    def _check_vocabulary(self) -> None:
        given = self.vocabulary != LEAST_TOKENS
        if self.vocabulary < 0 or (given and not self.prune_vocabulary):
            raise InputError(
                f"training: vocabulary is {self.vocabulary}; give how many tokens students keep at "
                "least, with --prune-vocabulary"
            )

    def _check_ranker(self) -> None:
        for name, used_by in (("quick_steps", "short"), ("supernet_steps", "supernet")):
            default = type(self).__dataclass_fields__[name].default
            if getattr(self, name) != default and self.ranker != used_by:
                raise InputError(
                    f"training: {name} is {getattr(self, name)}, which is of the ranker "
                    f"'{used_by}', and the ranker is '{self.ranker}'; leave it out"
                )

    def _check_losses(self) -> None:
        if self.losses != DEFAULT_LOSSES:
            object.__setattr__(self, "losses", canonical(self.losses))
        if self.relation_heads < 1 or (self.relation_layer is not None and self.relation_layer < 1):
            raise InputError(
                f"training: relation_heads is {self.relation_heads}, relation_layer "
                f"{self.relation_layer}; give numbers from 1"
            )
        given = (self.relation_heads, self.relation_layer) != (RELATION_HEADS, None)
        if given and "relations" not in self.weights:
            raise InputError(
                "training: relation_heads and relation_layer are of the loss 'relations', which is "
                f"not among {self.losses}; add it, or leave them out"
            )

    @property
    def given_for_teacher(self) -> tuple[int, float] | None:
        """Epochs and learning rate of the teacher, if any of them is given."""
        if self.teacher_epochs is None and self.teacher_lr is None:
            return None
        return self.teacher_epochs or _EPOCHS, self.teacher_lr or _RATE

    @property
    def rounded_epochs(self) -> int:
        """The last epochs of a finalist, in which it is rounded if its precision rounds."""
        if self.quantized_epochs is None:
            return max(1, round(self.final_epochs / 3))
        return self.quantized_epochs

    def of_losses(self) -> dict[str, Any]:
        """What the losses are, where they are not the default, of which results do not say it."""
        names = ("losses", "relation_heads", "relation_layer")
        given = {name: getattr(self, name) for name in names}
        return {name: value for name, value in given.items() if value != LATER[name]}

    @property
    def losses_key(self) -> list[Any]:
        """What the losses add to the key of a result; nothing where they are the default."""
        losses = self.of_losses()
        return [losses] if losses else []

    def facts(self) -> dict[str, Any]:
        """The options that the trained weights depend on: all but where and in which numbers
        they are computed, so that a run goes on on another machine."""
        facts = asdict(self)
        for name in ("threads", "device", "dtype"):
            del facts[name]
        return facts


# Options that earlier versions lacked, and what those did.
LATER: dict[str, Any] = {
    "losses": DEFAULT_LOSSES, "relation_heads": RELATION_HEADS, "relation_layer": None,
    "augment": 0, "augment_model": None, "ranker": "short", "supernet_steps": 400,
    "prune_vocabulary": False, "vocabulary": LEAST_TOKENS,
}  # fmt: skip

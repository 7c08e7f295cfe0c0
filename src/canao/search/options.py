"""The options of a search, what it needs of others, and the progress that it reports."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from canao.artifact.budgets import Scored
from canao.artifact.directory import Artifact
from canao.defaults import MAX_LOSS, PRECISION, field_defaults
from canao.device.base import MeasureConfig
from canao.device.certify import (
    OTHERS_LIMIT,
    PERCENTILE,
    check_budget,
    check_others_limit,
    check_samples,
)
from canao.errors import InputError
from canao.model.arch import Arch
from canao.search.candidates.budgets import Budgets
from canao.search.candidates.trial import Trial
from canao.search.controllers.controller import NAMES
from canao.train.data import TASKS
from canao.train.options import TrainOptions

if TYPE_CHECKING:  # these load Optuna and scikit-learn, and the command line must not
    from canao.search.candidates.allocate import Errors
    from canao.search.candidates.space import Space
    from canao.train.metrics import Score

Compile = Callable[[Path, Path], Artifact]
LEFT_OUT = "left_out"  # the fact of a run that names precisions that were left out


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A precision that was left out, the loss that was allowed then, and why, in words."""

    precision: str
    max_loss: float
    why: str

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> tuple[LeftOut, ...]:
        """Those of a run, from the facts in its run.json."""
        return tuple(cls(*row) for row in facts.get(LEFT_OUT, ()))

    def __str__(self) -> str:
        return f"{self.precision} was left out: {self.why}"


@dataclass(frozen=True, slots=True)
class Finished:
    """The library of a finished student, and the score of its own predictions on the development
    set, in full and as a certificate holds it; None where nothing but the student was scored."""

    artifact: Artifact
    score: Score | None = None
    scored: Scored | None = None


# Of a student's directory, where its library goes, and what is called with lines of progress.
Finish = Callable[[Path, Path, Callable[[str], None]], Finished]


class Student(Protocol):
    """A trained model: its Hugging Face directory, and its score on the development set."""

    @property
    def model_dir(self) -> Path: ...

    @property
    def score(self) -> Score: ...


class Trainer(Protocol):
    """What the search needs of `canao.train.trainer.Trainer`."""

    def teacher(self) -> Student:
        """The fine-tuned teacher."""
        ...

    def teacher_arch(self) -> Arch:
        """The teacher's architecture; costs no training."""
        ...

    def vocabulary(self) -> tuple[int, int] | None:
        """How many rows of the teacher's word embeddings students keep, and of how many; None: all.
        """
        ...

    def skeleton(self, arch: Arch) -> Path:
        """A Hugging Face directory with that architecture; its weights need not be trained."""
        ...

    def errors(self) -> Errors:
        """What each of its layers loses with fewer heads or FFN units; costs no training."""
        ...

    def kept_layers(self, count: int) -> Sequence[int]:
        """Which of the teacher's layers a student of so many layers keeps."""
        ...

    def word_width(self, arch: Arch) -> int:
        """How wide the word embeddings of that architecture are."""
        ...

    def worth(self, arch: Arch) -> float:
        """How much of the teacher's importance the architecture keeps; costs no training."""
        ...

    def proxy_score(self, arch: Arch) -> Score:
        """A cheap estimate of its final score: what it scores after little or no training."""
        ...

    def finish(self, arch: Arch) -> Student:
        """The architecture trained in full."""
        ...

    def prepare(self) -> None:
        """Make what the proxy scores of all candidates need, before several are computed at once.
        """
        ...

    def shared(self) -> str:
        """What says that `prepare` made the same bits here as elsewhere."""
        ...

    def take(self, work: str, shared: str, host: str) -> None:
        """Take what `prepare` made in another directory, of a process on `host`, and require that
        it is what `shared` says; InputError if it cannot be had."""
        ...


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """The options of one search.

    budget_ms        latency that the student's library must keep
    size_mb, memory_mb, min_accuracy   further budgets (candidates/budgets.py); None: there is none
    run_dir          where everything is written; the same directory resumes the run
    task             one of `canao.train.data.TASKS`; None: what the labels are, classes or values
    trials           candidates that get a proxy score; rejected ones come on top
    max_minutes      stop proposing after this much time spent on trials (0: never)
    controller       one of `canao.search.controllers.controller.NAMES`
    seed             of the controller and of the split of the data
    percentile       of the latency samples; this is what the budget limits
    others_limit     share of a core that others may take while a library is judged
    pauses_s         waits, in seconds, before it is measured again where they took more
    measure          protocol of the certification
    training         how teacher and students are trained, and the precision of libraries
    max_loss         points of the metric that the best student's library may lose against float32,
                     if it is in another precision
    search_samples   samples of each measurement during the search, where they only rank
    finalists        candidates trained in full, at most, until one holds the budget
    space            what is searched; None: every shape up to the teacher's
    identity         more facts that must not change when the run resumes: teacher and data
    times_of         a run whose kernel times are taken where this one has none
    data_told        how the data were understood, in lines: told at the start, kept for the report
    left_out         precisions in which a finished library lost too much, where `auto` chose them,
                     in that order: the run went on in `precision`
    """

    budget_ms: float
    run_dir: Path = Path("runs/search")
    task: str | None = None
    trials: int = 16
    max_minutes: float = 0.0
    controller: str = "gp"
    seed: int = 0
    percentile: float = PERCENTILE
    others_limit: float = OTHERS_LIMIT
    pauses_s: tuple[float, ...] = (1.0, 5.0, 10.0, 20.0)
    measure: MeasureConfig = MeasureConfig()
    training: TrainOptions = TrainOptions()
    max_loss: float = MAX_LOSS
    search_samples: int = 128
    finalists: int = 3
    space: Space | None = None
    identity: Mapping[str, str] = field(default_factory=dict)
    data_told: tuple[str, ...] = ()
    times_of: Path | None = None
    size_mb: float | None = None
    memory_mb: float | None = None
    min_accuracy: float | None = None
    left_out: tuple[LeftOut, ...] = ()

    def __post_init__(self) -> None:
        check_budget(self.budget_ms, self.percentile)
        _ = self.budgets  # which checks the others
        check_samples(self.measure.samples)
        check_others_limit(self.others_limit)
        for name in ("trials", "search_samples", "finalists"):
            if getattr(self, name) < 1:
                raise InputError(f"search: {name} is {getattr(self, name)}; give at least 1")
        if not (math.isfinite(self.max_minutes) and self.max_minutes >= 0):
            raise InputError(f"search: max_minutes is {self.max_minutes}; give 0 or more")
        if self.seed < 0:
            raise InputError(f"search: seed is {self.seed}; give 0 or more")
        if self.controller not in NAMES:
            raise InputError(f"controller '{self.controller}' is not one of {', '.join(NAMES)}")
        if not 0 <= self.max_loss <= 100:
            raise InputError(
                f"search: max_loss is {self.max_loss}; give points of the metric, from 0 to 100"
            )
        if self.max_loss != MAX_LOSS and self.precision == PRECISION:
            raise InputError(
                f"search: max_loss is what another precision may lose against {PRECISION}; give "
                "one with --precision, or leave it out"
            )

    @property
    def budgets(self) -> Budgets:
        return Budgets(self.budget_ms, self.size_mb, self.memory_mb, self.min_accuracy)

    @property
    def precision(self) -> str:
        """Of the products of all libraries."""
        return self.training.precision

    def in_precision(self, precision: str) -> SearchOptions:
        """The same with libraries in another precision, without what that has no use for."""
        # It loads SciPy, which the command line must not.
        from canao.precision.quantize import precision_of

        rounded = self.training.quantized_epochs if precision_of(precision).whole else None
        return replace(
            self, training=replace(self.training, precision=precision, quantized_epochs=rounded),
            max_loss=MAX_LOSS if precision == PRECISION else self.max_loss,
        )  # fmt: skip

    @property
    def search_measure(self) -> MeasureConfig:
        """The protocol during the search: the same with fewer samples."""
        samples = min(self.search_samples, self.measure.samples)
        return replace(self.measure, samples=samples, seconds=0.0)

    def facts(self) -> dict[str, Any]:
        """What must not change when a run is resumed, in JSON form. `min_accuracy` may change, and
        is there for reports."""
        measure = asdict(self.measure)
        measure["cores"] = list(measure["cores"])
        training = self.training.facts()
        del training["precision"]
        return {
            "precision": self.precision,
            "budget_ms": self.budget_ms,
            "size_mb": self.size_mb,
            "memory_mb": self.memory_mb,
            "min_accuracy": self.min_accuracy,
            "percentile": self.percentile,
            "controller": self.controller,
            "seed": self.seed,
            "search_samples": self.search_samples,
            **{f"measure.{name}": value for name, value in measure.items()},
            **{f"training.{name}": str(value) for name, value in training.items()},
            "task": self.task or TASKS[0],
            **({LEFT_OUT: [list(asdict(one).values()) for one in self.left_out]}
               if self.left_out else {}),
            **self.identity,
        }  # fmt: skip


# The defaults of the command line and of `canao.search`, too.
DEFAULTS = field_defaults(SearchOptions)


@dataclass(frozen=True, slots=True)
class Event:
    """One line of progress.

    stage           'data', 'resume', 'check', 'search', 'finish', 'certify', or 'team': what is
                    said of the database, of the device and of other processes
    text            the line for people; the other fields hold the same for programs
    done, total     candidates with a proxy score so far, and asked for
    seconds_left    estimate for the rest of the search; None before the first trial
    """

    stage: str
    text: str
    trial: Trial | None = None
    best: Trial | None = None
    done: int = 0
    total: int = 0
    seconds_left: float | None = None


Progress = Callable[[Event], None]

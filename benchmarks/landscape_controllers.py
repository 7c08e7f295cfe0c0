"""Controllers on one footing: each searches in a recorded table of trained students.

A proposal is looked up. One over the budget is told as a search tells it, at no cost; one that was
proposed before is told again; any other is an evaluation: the controller is told what the ranker
of a search says of it. What counts is the accuracy after full training of the candidate that the
ranker likes best so far, which is the one that a search would finish.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from peers.records import Record

from canao.artifact.files import write_whole
from canao.errors import InputError
from canao.model.arch import Arch
from canao.search.candidates.space import Space
from canao.search.controllers.controller import BLOCKWISE, LATENCY, NAMES, objectives
from canao.search.controllers.samplers import make_controller

RESULTS = Path(__file__).resolve().parent / "results" / "controllers.json"
EVALUATIONS = 32
_ASKED = 20  # times as many proposals as evaluations, at most
_PATIENCE = 12  # proposals in a row without an evaluation, after which a neighbour is evaluated
_RANKER = "short"


@dataclass(frozen=True)
class Student:
    """What the table has of an architecture."""

    arch: Arch
    accuracy: float
    score: float
    ms: float


@dataclass(frozen=True)
class Landscape:
    """Students by architecture, and the teacher's milliseconds."""

    students: Mapping[Arch, Student]
    teacher_ms: float

    @staticmethod
    def of(records: Sequence[Record], space: Space, ranker: str = _RANKER) -> Landscape:
        """InputError where the table is not complete."""
        times = {r["arch"]: r["p90_ms"] for r in records if r["kind"] == "latency"}
        rows = {r["arch"]: r for r in records if r["kind"] == "accuracy"}
        lacking = [arch for arch in rows if arch not in times]
        grid = {arch.to_json() for arch in space}
        if lacking or grid - rows.keys():
            raise InputError(
                f"the table lacks {len(grid - rows.keys())} students of the grid, and latencies of "
                f"{len(lacking)}; record them first"
            )
        students = {
            Arch.from_json(text): Student(
                Arch.from_json(text), row["accuracy"], row["scores"][ranker], times[text]
            )
            for text, row in rows.items()
        }
        whole = max(times, key=lambda text: Arch.from_json(text).weights())
        return Landscape(students, times[whole])


class Search:
    """One controller in the table, from one seed, under one budget."""

    def __init__(
        self, landscape: Landscape, space: Space, controller: str, seed: int, budget_ms: float
    ) -> None:
        self.land, self.space, self.budget_ms = landscape, space, budget_ms
        self.study = optuna.create_study(
            directions=list(objectives(controller)),
            sampler=make_controller(controller, space, seed),
        )
        self.found: dict[Arch, Student] = {}  # that were evaluated, in order
        self.over: set[Arch] = set()
        if controller == BLOCKWISE:
            self._blocks()

    def run(self, evaluations: int) -> list[Student]:
        """The students evaluated, in order; fewer if the controller comes up with no more."""
        without = 0
        for _ in range(_ASKED * evaluations):
            if len(self.found) >= evaluations:
                break
            if without >= _PATIENCE:
                self._suggest_near()
            known = len(self.found)
            self._ask()
            without = without + 1 if len(self.found) == known else 0
        return list(self.found.values())

    def _ask(self) -> None:
        trial = self.study.ask(self.space.distributions())
        self._told(trial, self.land.students[self.space.decode(trial.params)])

    def _told(self, trial: optuna.Trial, student: Student) -> None:
        if student.ms <= self.budget_ms:
            self.found.setdefault(student.arch, student)
            value = student.score
        else:
            self.over.add(student.arch)
            value = min((s.score for s in self.found.values()), default=0.0)
        trial.set_constraint(LATENCY, student.ms / self.budget_ms - 1.0)
        several = len(self.study.directions) > 1
        self.study.tell(trial, [value, student.ms] if several else value)

    def _suggest_near(self) -> None:
        """What a search does where its controller repeats itself: the untried neighbour of the best
        student comes next."""
        best = max(self.found.values(), key=lambda s: s.score, default=None)
        start = self.space.smallest if best is None else self.space.nearest(best.arch)
        queue, seen = [start], {start}
        for arch in queue:
            if arch not in self.found and arch not in self.over:
                self.study.enqueue_trial(self.space.encode(arch))
                return
            near = [a for a in reversed(tuple(self.space.neighbours(arch))) if a not in seen]
            seen.update(near)
            queue += near

    def _blocks(self) -> None:
        """The students of the dynamic program come first, the widest first: of each width the
        largest that keeps the budget."""
        of = [s for s in self.land.students.values()
              if not self.space.contains(s.arch) and s.ms <= self.budget_ms]  # fmt: skip
        for width in sorted({s.arch.hidden for s in of}, reverse=True):
            best = max((s for s in of if s.arch.hidden == width), key=lambda s: s.ms)
            # As a search tells it: of the nearest that the controller could have proposed.
            self.study.enqueue_trial(self.space.encode(self.space.nearest(best.arch)))
            self._told(self.study.ask(self.space.distributions()), best)


def compare(
    records: Sequence[Record], space: Space, shares: Sequence[float], seeds: int,
    say: Callable[[str], None],
) -> None:  # fmt: skip
    """Let all controllers search, and write what came of it to results/controllers.json."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    torch.set_num_threads(1)
    land, rows = Landscape.of(records, space), list[dict[str, Any]]()
    for share in shares:
        budget = share * land.teacher_ms
        fitting = [s for s in land.students.values() if s.ms <= budget]
        alike = [s.accuracy for s in fitting if space.contains(s.arch)]
        for controller in NAMES:
            runs = [Search(land, space, controller, seed, budget).run(EVALUATIONS)
                    for seed in range(seeds)]  # fmt: skip
            rows.append({
                "share": share, "controller": controller, "optimum": max(alike),
                "accuracy": [_chosen(run) for run in runs],
                "volume": [_volumes(run, budget) for run in runs],
            })  # fmt: skip
            say(f"budget {share:.2f} of the teacher's, {controller}: "
                f"{np.mean([r[-1] for r in rows[-1]['accuracy']]):.4f}")  # fmt: skip
    write_whole(RESULTS, json.dumps({"seeds": seeds, "ranker": _RANKER, "rows": rows}) + "\n")


def _chosen(run: Sequence[Student]) -> list[float]:
    """After each evaluation, the accuracy of the student that the ranker likes best; of equal ones
    the fastest. Where a controller found no more, it stays."""
    found, best = list[float](), None
    for student in run:
        if best is None or (student.score, -student.ms) > (best.score, -best.ms):
            best = student
        found.append(best.accuracy)
    return found + found[-1:] * (EVALUATIONS - len(found))


def _volumes(run: Sequence[Student], budget_ms: float) -> list[float]:
    """After each evaluation, the hypervolume of accuracy and of the share of the budget that is
    left: of the rectangle up to 1 in both, what the students found dominate."""
    found = list[float]()
    for count in range(1, len(run) + 1):
        total, reached = 0.0, 0.0
        for student in sorted(run[:count], key=lambda s: (s.ms, -s.accuracy)):
            if student.accuracy > reached:
                total += (student.accuracy - reached) * (1.0 - student.ms / budget_ms)
                reached = student.accuracy
        found.append(total)
    return found + found[-1:] * (EVALUATIONS - len(found))

"""Optuna's storage in a database, which reads a study of thousands of trials in a second or two,
and what is new in one in milliseconds.

Optuna builds an object of each attribute of each trial that it reads. Here the tables are read as
they are. Their schema is that of Optuna's version, which it checks.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Container, Sequence
from datetime import datetime, timezone
from functools import lru_cache
from typing import Any

import optuna
import sqlalchemy
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState

_MANY = 500  # trials that are asked for by their numbers, at most


class BulkStorage(RDBStorage):
    """Optuna's, but for how trials are read."""

    def _get_trials(
        self, study_id: int, states: Container[TrialState] | None, included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:  # fmt: skip
        if states is not None or len(included_trial_ids) > _MANY:
            return super()._get_trials(study_id, states, included_trial_ids, trial_id_greater_than)
        trial = models.TrialModel.__table__.c
        asked = trial.trial_id > trial_id_greater_than
        if included_trial_ids:
            asked = sqlalchemy.or_(asked, trial.trial_id.in_(included_trial_ids))
        try:
            with self.engine.connect() as connection:
                return _read(connection, study_id, asked)
        except sqlalchemy.exc.SQLAlchemyError as error:
            raise optuna.exceptions.StorageInternalError(str(error)) from error


def _read(connection: sqlalchemy.Connection, study_id: int, asked: Any) -> list[FrozenTrial]:
    """The trials of a study that fulfil a condition; KeyError where there is no such study."""
    trial = models.TrialModel.__table__.c
    if not connection.execute(
        sqlalchemy.select(models.StudyModel.study_id).filter_by(study_id=study_id)
    ).first():
        raise KeyError(models.NOT_FOUND_MSG)
    # What was finished by now has all its attributes, and is not read again.
    rows = connection.execute(
        sqlalchemy.select(
            trial.trial_id, trial.number, trial.state, trial.datetime_start,
            trial.datetime_complete,
        ).where(trial.study_id == study_id, asked).order_by(trial.trial_id)
    ).all()  # fmt: skip
    if not rows:
        return []
    of = _Rows(connection, study_id, [row[0] for row in rows])
    params = of(models.TrialParamModel, "param_name", "param_value", "distribution_json",
                order="param_id")  # fmt: skip
    values = of(models.TrialValueModel, "value", "value_type", order="objective")
    users = of(models.TrialUserAttributeModel, "key", "value_json")
    systems = of(models.TrialSystemAttributeModel, "key", "value_json")
    steps = of(models.TrialIntermediateValueModel, "step", "intermediate_value",
               "intermediate_value_type")  # fmt: skip
    found = []
    for id, number, state, start, complete in rows:
        kinds = {name: _distribution(text) for name, _, text in params[id]}
        found.append(FrozenTrial(
            number=number, state=state, value=None,
            values=[models.TrialValueModel.stored_repr_to_value(*v) for v in values[id]] or None,
            datetime_start=_local(start), datetime_complete=_local(complete),
            params={name: kinds[name].to_external_repr(v) for name, v, _ in params[id]},
            distributions=kinds,
            user_attrs={name: json.loads(text) for name, text in users[id]},
            system_attrs={name: json.loads(text) for name, text in systems[id]},
            intermediate_values={
                step: models.TrialIntermediateValueModel
                .stored_repr_to_intermediate_value(v, kind) for step, v, kind in steps[id]
            },
            trial_id=id,
        ))  # fmt: skip
    return found


class _Rows:
    """Reads the rows of trials from a table, by the trials' ids; of many, those of all trials of
    their study."""

    def __init__(
        self, connection: sqlalchemy.Connection, study_id: int, trials: Sequence[int]
    ) -> None:
        self._connection = connection
        self._trials: Any = trials
        if len(trials) > _MANY:
            self._trials = sqlalchemy.select(models.TrialModel.trial_id).where(
                models.TrialModel.study_id == study_id
            )

    def __call__(
        self, table: Any, *columns: str, order: str | None = None
    ) -> dict[int, list[tuple[Any, ...]]]:
        asked = sqlalchemy.select(table.trial_id, *(getattr(table, name) for name in columns))
        asked = asked.where(table.trial_id.in_(self._trials))
        if order is not None:
            asked = asked.order_by(getattr(table, order))
        found: dict[int, list[tuple[Any, ...]]] = defaultdict(list)
        for id, *row in self._connection.execute(asked):
            found[id].append(tuple(row))
        return found


@lru_cache(maxsize=256)
def _distribution(text: str) -> BaseDistribution:
    """Trials share their distributions, which nobody changes."""
    return json_to_distribution(text)


def _local(stored: datetime | None) -> datetime | None:
    """A time as Optuna gives it: the clock's here, from that of Greenwich."""
    if stored is None:
        return None
    return stored.replace(tzinfo=timezone.utc).astimezone().replace(tzinfo=None)

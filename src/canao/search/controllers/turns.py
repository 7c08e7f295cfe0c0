"""Whose turn it is: which proposal of a search a trial is, where several processes ask at once."""

from __future__ import annotations

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

REPEATS = "repeats"  # user attribute: set where the proposal had been judged, or begun, before


def proposed_before(study: Study, trial: FrozenTrial) -> int:
    """How many trials were proposed before: of several processes that ask at once no two find the
    same number, and one alone that was killed finds it again."""
    count = 0
    for one in study.get_trials(deepcopy=False):
        repeated = one.state == TrialState.FAIL and REPEATS in one.user_attrs
        earlier = one.state == TrialState.RUNNING and one.number < trial.number
        count += one.state == TrialState.COMPLETE or repeated or earlier
    return count

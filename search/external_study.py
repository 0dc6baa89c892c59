"""A study of experiments that somebody else chooses: trials are opened with a choice, and closed with what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import TrialState

from search.optuna_logging import quietly
from search.storage import open_storage, readable_errors

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping


class ExternalStudy:
    """An Optuna study in ask-and-tell style whose trials are proposed from outside (``Study.enqueue_trial``).

    With a storage, optuna-dashboard shows it, and the same name goes on where a process ended; what that one had begun
    counts as failed.
    """

    def __init__(
        self, most: Mapping[str, int], *, storage: str | os.PathLike[str] | None = None, study_name: str | None = None
    ) -> None:
        """Open a study of choices, numbers from 0 to ``most`` each; their values are minimised.

        Raises:
            InputError: the storage or the study in it cannot be used.

        """
        self.where = "in memory" if storage is None else str(storage)
        self._most = dict(most)
        with readable_errors(self.where), quietly():
            self.study = optuna.create_study(storage=open_storage(storage), study_name=study_name, load_if_exists=True)
            for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING)):
                if trial.state is TrialState.WAITING:
                    self.study.ask()
                self.study.tell(trial.number, state=TrialState.FAIL)

    def ask(self, chosen: Mapping[str, int]) -> optuna.Trial:
        """Begin a trial with this choice; what is not named is 0."""
        options: dict[str, optuna.distributions.BaseDistribution] = {
            name: optuna.distributions.IntDistribution(0, most) for name, most in self._most.items()
        }
        with readable_errors(self.where), quietly():
            self.study.enqueue_trial({name: chosen.get(name, 0) for name in options})
            return self.study.ask(options)

    def tell(self, trial: optuna.Trial, value: float | None, **attributes: Any) -> None:
        """End a trial with its value, or as failed where there is none."""
        with readable_errors(self.where), quietly():
            for name, attribute in attributes.items():
                trial.set_user_attr(name, attribute)
            self.study.tell(trial, value, state=None if value is not None else TrialState.FAIL)

"""Experiments that somebody else chooses, as trials of a study."""

import optuna
import pytest
from optuna.trial import TrialState

from catalog.errors import InputError
from search.external_study import ExternalStudy

MOST = {"tp1pp1": 8, "tp2pp1": 8}


def test_a_trial_is_what_was_chosen_and_holds_what_came_of_it():
    asking = ExternalStudy(MOST)
    asking.tell(asking.ask({"tp2pp1": 3}), 0.02, doubt=0.4)
    asking.tell(asking.ask({"tp1pp1": 1, "tp2pp1": 1}), 0.001, doubt=0.01)
    asking.tell(asking.ask({"tp1pp1": 2}), None)
    first, second, third = asking.study.trials
    assert first.params == {"tp1pp1": 0, "tp2pp1": 3}
    assert (first.value, first.user_attrs["doubt"]) == (0.02, 0.4)
    assert second.params == {"tp1pp1": 1, "tp2pp1": 1}
    assert third.state is TrialState.FAIL
    assert asking.study.best_trial.number == 1


def test_a_study_goes_on_where_a_process_ended(tmp_path):
    storage = tmp_path / "tune.journal"
    first = ExternalStudy(MOST, storage=str(storage), study_name="live")
    first.tell(first.ask({"tp1pp1": 1}), 0.1)
    first.ask({"tp2pp1": 1})
    first.study.enqueue_trial({"tp1pp1": 1, "tp2pp1": 0})
    second = ExternalStudy(MOST, storage=str(storage), study_name="live")
    assert [trial.state for trial in second.study.trials] == [TrialState.COMPLETE, TrialState.FAIL, TrialState.FAIL]
    second.tell(second.ask({"tp1pp1": 2}), 0.05)
    assert second.study.best_value == 0.05
    assert isinstance(second.study, optuna.Study)


def test_a_storage_that_cannot_be_used_is_said_in_one_line(tmp_path):
    with pytest.raises(InputError, match=r"^[^\n]+$"):
        ExternalStudy(MOST, storage=f"{tmp_path}/none.txt")

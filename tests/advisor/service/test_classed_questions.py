"""Classes of requests in questions from outside: asked as a file states them, bounded, and refused in words."""

import pytest
from pydantic import ValidationError

from advisor.service.questions import QUESTIONS, summary
from catalog.errors import InputError

CLASSES = [{"name": "chat", "rate": 3, "input_len": 400, "output_len": 30, "ttft": 400}, {"name": "batch", "rate": 1}]


def test_a_simulation_of_classes_is_answered_by_class():
    question = QUESTIONS["simulate"]
    asked = {"model": "llama-3.1-8b", "gpus": "H100", "duration_s": 20, "draws": 0, "scheduling_policy": "priority"}
    answer = question.answer(question.body.model_validate(asked | {"classes": CLASSES}))
    assert [kind.name for kind in answer.classes] == ["chat", "batch"]
    assert answer.asked_s == 4.0
    assert "batch" in summary(answer)
    many = [kind | {"rate": 1e5} for kind in CLASSES]
    with pytest.raises(InputError, match="requests; at most"):
        question.answer(question.body.model_validate(asked | {"classes": many}))


@pytest.mark.parametrize("name", ["simulate", "plan"])
def test_a_class_has_known_fields_only(name):
    body = QUESTIONS[name].body
    with pytest.raises(ValidationError, match="speed"):
        body.model_validate({"model": "llama-3.1-8b", "gpus": "H100", "classes": [{"name": "a", "speed": 1}]})


@pytest.mark.parametrize(
    "kind", [{"priority": 2**40}, {"share": 0}, {"spread": 4.0}, {"ttft": float("inf")}, {"name": ""}]
)
def test_a_class_is_bounded_as_in_a_file(kind):
    body = QUESTIONS["simulate"].body
    with pytest.raises(ValidationError):
        body.model_validate({"model": "llama-3.1-8b", "gpus": "H100", "classes": [{"name": "a"} | kind]})


def test_more_classes_than_are_served_for_others_are_refused():
    many = [{"name": f"class {number}"} for number in range(21)]
    with pytest.raises(ValidationError, match="at most 20"):
        QUESTIONS["plan"].body.model_validate({"model": "llama-3.1-8b", "gpus": "H100", "classes": many})

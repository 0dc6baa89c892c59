"""Named choices of a front: the ends, and a knee between them that is on the front."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from advisor.recommendation.choices import BALANCED, FASTEST, MOST_THROUGHPUT, named_choices


@dataclass(frozen=True)
class Point:
    """What the choices read of an estimate."""

    tpot_ms: float | None
    output_tok_s_per_gpu: float | None


POINTS = st.lists(
    st.builds(Point, tpot_ms=st.floats(1.0, 200.0), output_tok_s_per_gpu=st.floats(10.0, 5000.0)),
    min_size=1,
    max_size=30,
)


@given(POINTS)
def test_the_ends_are_the_best_of_each_and_every_choice_is_of_the_front(points):
    choices = named_choices(points)
    assert set(choices.values()) <= set(points)
    assert choices[MOST_THROUGHPUT].output_tok_s_per_gpu == max(point.output_tok_s_per_gpu for point in points)
    fastest = choices.get(FASTEST, choices[MOST_THROUGHPUT] if BALANCED not in choices else choices[BALANCED])
    assert len(set(choices.values())) == len(choices)
    if FASTEST in choices:
        assert fastest.tpot_ms == min(point.tpot_ms for point in points)


def test_the_knee_of_a_bent_front_is_balanced():
    front = [Point(100.0, 1000.0), Point(25.0, 950.0), Point(20.0, 500.0), Point(10.0, 100.0)]
    assert named_choices(front)[BALANCED] == Point(25.0, 950.0)


def test_one_deployment_is_one_choice_and_none_is_none():
    assert list(named_choices([Point(10.0, 100.0)])) == [MOST_THROUGHPUT]
    assert named_choices([Point(None, None)]) == {}

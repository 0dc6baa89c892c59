"""The time and memory of images: nothing without them, never less with more, and close to their operations on big ones."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import advisor
from advisor.calibration.intervals import LEVEL
from advisor.perf_model.deployment_arrays import DeploymentArrays
from advisor.perf_model.image_encoding import image_cost, image_gib
from advisor.perf_model.parameters import IDEAL, Parameters
from advisor.render.answers.recommendation import document
from catalog.engines import resolve
from catalog.errors import InputError
from catalog.gpus import parse_cluster
from catalog.models.find import find_model
from catalog.models.image_encoders import encoder_of, with_images
from catalog.schema import Deployment

NAMES = ["Qwen/Qwen2.5-VL-7B-Instruct", "Qwen/Qwen3-VL-8B-Instruct", "google/gemma-3-27b-it"]
TYPICAL = Parameters.typical()
CLUSTER = parse_cluster("4xH100").value


def layout_of(model, **knobs):
    deployment = resolve(Deployment(**knobs), model, CLUSTER).value
    return DeploymentArrays.of([deployment], model, CLUSTER.gpu)


def milliseconds(model, tokens, parameters=IDEAL, **knobs):
    cost = image_cost(model, layout_of(model, **knobs), np.array([float(tokens)]), CLUSTER, parameters)
    return float(np.ravel(cost.total_ms)[0])


def asked(name, number, side):
    return with_images(find_model(name).value, number, (side, side), 100)


@settings(deadline=None, max_examples=40)
@given(
    name=st.sampled_from(NAMES),
    number=st.integers(1, 8),
    side=st.integers(32, 2000),
    more=st.integers(1, 500),
    tp=st.sampled_from([1, 2, 4]),
)
def test_more_and_larger_images_never_take_less(name, number, side, more, tp):
    def whole(count, pixels):
        model = asked(name, count, pixels)
        return milliseconds(model, model.images.prompt_len, TYPICAL, tp=tp)

    assert whole(number + 1, side) >= whole(number, side) * (1 - 1e-12)
    assert whole(number, side + more) >= whole(number, side) * (1 - 1e-12)
    assert whole(number, side) > 0
    model = asked(name, number, side)
    assert milliseconds(model, 0, TYPICAL, tp=tp) == 0.0
    assert whole(number, side) >= milliseconds(model, model.images.prompt_len, IDEAL, tp=tp)


@pytest.mark.parametrize("name", NAMES)
def test_many_large_images_take_the_time_of_their_operations(name):
    """On ideal hardware: two operations a matrix element and patch, and four a pair and channel."""
    model = asked(name, 8, 1024)
    encoder, images = encoder_of(model), model.images
    up = 3 if encoder.gated else 2
    layer = 4 * encoder.hidden_size**2 + up * encoder.hidden_size * encoder.intermediate_size
    flops = images.image.patches * 2 * (encoder.layers * layer + encoder.patch_numbers * encoder.hidden_size)
    flops += images.image.tokens * 2 * sum(rows * columns for rows, columns in encoder.projections)
    windowed = encoder.layers - encoder.whole_layers
    pairs = encoder.whole_layers * images.image.pairs + windowed * images.image.windowed_pairs
    flops = images.number * (flops + 4 * pairs * encoder.hidden_size)
    floor = flops / (CLUSTER.gpu.fp16_tflops * 1e9)
    assert floor <= milliseconds(model, images.prompt_len) <= 1.4 * floor


def test_windows_spare_attention():
    model = asked(NAMES[0], 1, 2000)
    whole = replace(encoder_of(model), full_layers=None, window_patches=0)
    everywhere = with_images(replace(find_model(NAMES[0]).value, image_encoder=whole), 1, (2000, 2000), 100)
    assert milliseconds(model, 5000) < 0.7 * milliseconds(everywhere, 5000)


@pytest.mark.parametrize("name", NAMES)
def test_a_card_keeps_room_for_what_the_encoder_makes(name):
    model = asked(name, 1, 1024)
    layout = layout_of(model, max_num_batched_tokens=8192)
    passing, kept = image_gib(model, layout)
    assert kept[0] == pytest.approx(max(8192, encoder_of(model).most_tokens) * model.hidden_size * 2 / 2**30)
    assert passing[0] > 0
    none = image_gib(find_model(name).value, layout)
    assert (none[0][0], none[1][0]) == (0.0, 0.0)


@settings(deadline=None, max_examples=8)
@given(name=st.sampled_from(NAMES[:2]), batch=st.integers(1, 32), input_len=st.integers(1, 3000))
def test_no_image_is_the_plain_case_exactly(name, batch, input_len):
    common = {"batch": batch, "input_len": input_len, "output_len": 20}
    plain = advisor.estimate(name, "1xH100", **common).to_dict()
    assert advisor.estimate(name, "1xH100", **common, images=0).to_dict() == plain
    one, two = (advisor.estimate(name, "1xH100", **common, images=n, image_size="448x448") for n in (1, 2))
    assert plain["ttft_ms"] < one.ttft_ms < two.ttft_ms
    assert plain["e2e_ms"] < one.e2e_ms < two.e2e_ms
    assert one.kv_capacity_tokens <= plain["kv_capacity_tokens"]
    same_length = advisor.estimate(name, "1xH100", **common | {"input_len": one.input_len})
    assert one.ttft_ms > same_length.ttft_ms
    low, high = one.interval("ttft_ms", LEVEL)
    plain_low, plain_high = same_length.interval("ttft_ms", LEVEL)
    assert high / low > plain_high / plain_low  # no run with images was measured


def test_traffic_with_images_is_simulated_planned_and_recommended():
    common = {"input_len": 150, "output_len": 30}
    served = {"rate": 4, "duration_s": 20.0, "draws": 0}
    text = advisor.simulate(NAMES[1], "H100", **common, **served)
    none = advisor.simulate(NAMES[1], "H100", **common, **served, images=0)
    assert none.metrics == text.metrics
    seen = [
        advisor.simulate(NAMES[1], "H100", **common, **served, images=n, image_size="512x512").metrics["ttft_ms"]["p50"]
        for n in (1, 3)
    ]
    same_length = advisor.simulate(NAMES[1], "H100", **common | {"input_len": 150 + 256}, **served)
    assert text.metrics["ttft_ms"]["p50"] < same_length.metrics["ttft_ms"]["p50"] < seen[0] < seen[1]


def test_recommend_counts_images_and_asks_on_with_them():
    answer = advisor.recommend(NAMES[1], "1xH100", input_len=150, output_len=30, concurrency=8, images=1)
    assert answer.best is not None
    assert answer.best.input_len == 150 + 1024
    commands = [section.command for section in document(answer).sections if section.command]
    words = " ".join(next(step.argv for step in commands if "simulate" in step.argv))
    assert "--images 1 --image-size 1024x1024" in words
    assert "--input-len 150" in words


@pytest.mark.slow
def test_a_plan_for_images_takes_no_fewer_gpus():
    asked_ = {"rate": 30, "input_len": 150, "output_len": 30, "ttft": 2000, "draws": 0, "duration_s": 20.0, "price": 2}
    plain, images = (advisor.plan(NAMES[1], "H100", **asked_, images=n) for n in (0, 2))
    assert plain.best.gpus < images.best.gpus


@pytest.mark.parametrize(
    ("asked_", "wrong"),
    [
        ({"image_size": "3x3"}, "image_size is of images"),
        ({"images": 1, "image_size": "large"}, "HEIGHTxWIDTH"),
        ({"images": 1, "turns": 2, "think_time": 3}, "alike"),
        ({"images": -1}, "images is -1"),
        ({"images": 1, "classes": {"classes": [{"name": "a"}]}}, "alike"),
    ],
)
def test_what_images_cannot_come_with_is_said(asked_, wrong):
    with pytest.raises(InputError, match=wrong):
        advisor.simulate(NAMES[1], "H100", rate=2, draws=0, **asked_)

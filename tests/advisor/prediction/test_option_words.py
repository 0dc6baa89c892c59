"""A command that is proposed asks the same question again: engine, release, formats, knobs, lengths, limits."""

import re
import shlex

import pytest

import advisor
from advisor.prediction.explanation import next_probe
from advisor.prediction.option_words import KNOBS, engine_words
from advisor.render.answers.recommendation import document
from advisor.render.console import text
from catalog.engines import resolve
from catalog.gpus import find_gpu
from catalog.models.find import find_model

H100 = advisor.Cluster(gpu=find_gpu("H100").value, gpus_per_node=8)
MODEL = find_model("llama-3.1-8b").value


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"dtype": "fp8"},
        {"kv_dtype": "fp8", "engine": "sglang"},
        {"max_model_len": 8192, "max_num_seqs": 64},
        {"max_num_batched_tokens": 4096, "gpu_memory_utilization": 0.8, "offload": 0.25},
        {"engine_version": "0.33"},
    ],
)
def test_options_make_the_same_deployment(changes):
    wanted = resolve(advisor.Deployment(tp=2, **changes), MODEL, H100).value
    words = engine_words(wanted, MODEL, H100)
    names = {option: name for name, option in KNOBS.items()}
    names |= {"--engine": "engine", "--engine-version": "engine_version", "--dtype": "dtype"}
    given = {names[option]: value for option, value in zip(words[::2], words[1::2], strict=True)}
    numbers = {name: float(value) if re.fullmatch(r"\d*\.?\d+", value) else value for name, value in given.items()}
    numbers |= {name: given[name] for name in ("engine_version",) if name in given}
    whole = {name: int(value) if name.startswith("max") else value for name, value in numbers.items()}
    assert given.keys() == changes.keys()
    assert resolve(advisor.Deployment(tp=2, **whole), MODEL, H100).value == wanted


def _answer(**question):
    return advisor.recommend("llama-3.1-8b", "2xH100", runs=[], **question)


def test_a_recommendation_is_simulated_with_its_own_engine_and_formats():
    answer = _answer(engine="sglang", kv_dtypes=["fp8"], slo={"tpot": 30}, workload={"concurrency": 16})
    shown = " ".join(text(document(answer), 400).replace("\\\n", " ").split())
    words = re.search(r"next (advisor simulate .*)", shown)[1]
    assert "--engine sglang" in words
    assert "--kv-cache-dtype fp8" in words


def test_what_is_simulated_is_what_was_asked_to_be_in_flight():
    """Not the batch of every replica together, which is rounded up: 3 x 334."""
    answer = advisor.recommend("llama-3.1-8b", "3xH100", workload={"concurrency": 1000}, runs=[])
    assert answer.best.batch * answer.best.deployment.dp != 1000
    assert "--concurrency 1000" in text(document(answer), 400)


def test_the_header_names_the_release_that_is_asked_about():
    answer = _answer(engine_version="0.33", slo={"tpot": 30})
    shown = text(document(answer), 200)
    assert "vllm 0.33 " in shown.splitlines()[0]
    assert "--engine-version 0.33" in shown


def test_what_decides_measures_the_question():
    answer = _answer(slo={"tpot": 30}, workload={"concurrency": 16, "input_len": 2000}, dtypes=["fp8"])
    words = shlex.split(answer.next_probe.partition("GPUs: ")[2])
    asked = dict(zip(words[2::2], words[3::2], strict=True))
    expected = {"--engine": "vllm", "--dtype": "fp8", "--input-len": "2000", "--tpot": "30", "--concurrency": "16"}
    assert expected.items() <= asked.items()


def test_times_that_are_apart_are_no_close_call():
    """Closeness is of what is wanted, not of tokens per GPU: half the time on twice the GPUs."""
    answer = advisor.recommend("qwen3-32b", "4xL40S", objective="latency", runs=[])
    first = answer.candidates[0]
    half = next(each for each in answer.candidates if each.deployment.num_gpus < first.deployment.num_gpus)
    assert all(first.interval("e2e_ms")[1] < each.interval("e2e_ms")[0] for each in answer.candidates[1:])
    assert answer.next_probe == ""
    same = {"cluster": answer.cluster, "workload": answer.workload, "slo": answer.slo, "objective": []}
    assert "too close" in next_probe([first, half], "output_tok_s_per_gpu", **same)


def test_a_release_that_nobody_can_place_is_not_taken_for_a_fitted_one():
    known = _answer(engine_version="0.33")
    odd = _answer(engine_version="9.9")
    assert any("not known" in note.text and note.kind == "warning" for note in odd.assumptions)
    assert not any("not known" in note.text for note in known.assumptions)

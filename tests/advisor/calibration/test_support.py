"""What no run behind a fit had makes the parameters in question, and no others, less certain."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import advisor
from advisor.calibration.left_out import errors_of
from advisor.calibration.observations import group_runs
from advisor.calibration.parameter_posterior import TrainingSupport
from advisor.calibration.posterior import own_start, update
from advisor.calibration.shipped_fit import fitted_part
from advisor.calibration.support import (
    FEW_MODELS_SHARE,
    KERNEL_FAMILIES,
    WIDE_TP_PARAMETERS,
    extrapolation_variance,
    training_support,
    unsupported,
    widened,
)
from advisor.calibration.surrogate import Surrogate, analytic_marginal, shipped_surrogate
from advisor.perf_model.deployment_arrays import DeploymentArrays
from advisor.perf_model.parameters import NAMES, PRIORS
from advisor.validation.coverage import trials
from catalog.borders import checked
from catalog.gpus import find_gpu
from catalog.models.find import find_model
from catalog.published_folder import read_published
from catalog.runs import shipped_runs
from tests.reference_runs import reference_runs

PUBLISHED = Path(__file__).parents[3] / "benchmarks" / "published"
GPU = find_gpu("H200-SXM").value
DENSE = find_model("meta-llama/Llama-2-13b-hf").value
LATENT = find_model("deepseek-ai/DeepSeek-V3").value
COLUMNS = {
    "tp": [1, 1, 8], "pp": [1, 1, 2], "dp": 1, "ep": [1, 8, 1], "max_num_seqs": 256, "max_num_batched_tokens": 8192,
    "max_model_len": 4096, "gpu_memory_utilization": 0.9, "offload": 0.0, "compiled": True, "sequence_parallel": False,
    "dtype": ["bfloat16", "int4", "fp8"], "kv_dtype": ["auto", "auto", "fp8"],
}  # fmt: skip


def layout(model):
    return DeploymentArrays.from_columns(COLUMNS, model, GPU)


def test_each_layout_has_its_own_news():
    assert unsupported(TrainingSupport(), DENSE, layout(DENSE)) == (
        (),
        ("4-bit weights", "expert parallelism", "attention data parallel"),
        ("8-bit weights", "an 8-bit KV cache", "tensor parallel over more than 1 GPUs", "more than 1 pipeline stages"),
    )
    assert unsupported(TrainingSupport(), LATENT, layout(LATENT))[2][1:4] == (
        "8-bit experts",
        "an 8-bit KV cache",
        "latent attention",
    )
    assert unsupported(TrainingSupport(kinds=frozenset(KERNEL_FAMILIES), tp=8, pp=2), LATENT, layout(LATENT)) == (
        (),
        (),
        (),
    )
    assert unsupported(None, LATENT, layout(LATENT)) == ((), (), ())


some = st.frozensets(st.sampled_from(sorted(KERNEL_FAMILIES)))
seens = st.builds(TrainingSupport, kinds=some, often=some, tp=st.integers(1, 8), pp=st.integers(1, 4))


@given(seens, seens)
def test_who_has_seen_more_is_no_less_certain(one, other):
    columns = layout(LATENT)
    both, less = extrapolation_variance(one | other, LATENT, columns), extrapolation_variance(one, LATENT, columns)
    assert (both <= less).all()
    spread = np.array([PRIORS[name].spread for name in NAMES])
    assert (less <= spread[:, None] ** 2).all()
    assert checked(TrainingSupport, (one | other).to_dict(), "support") == one | other == other | one


def test_only_what_is_asked_of_these_kernels_is_less_certain():
    marginal = shipped_surrogate().marginal("vllm", GPU.name)
    never = {"sparse attention", "an architecture that is read by its fields alone", "attention data parallel"}
    never |= {
        "decode context parallelism",
        "DeepEP between replicas",
        "an image encoder",
        "weights multiplied in 4 bits",
        "experts multiplied in 4 bits",
    }  # not on Hopper
    assert marginal.seen.kinds == frozenset(KERNEL_FAMILIES) - never
    assert marginal.seen.often >= {"8-bit weights", "an 8-bit KV cache"}
    assert (marginal.seen.tp, marginal.seen.pp) == (8, 4)
    marginal = replace(
        marginal,
        seen=TrainingSupport(
            kinds=marginal.seen.kinds - {"8-bit experts"}, often=frozenset({"8-bit weights"}), tp=4, pp=4
        ),
    )
    wider = widened(marginal, (LATENT, layout(LATENT)))
    grown = {NAMES[i] for i in np.flatnonzero(np.diag(wider.covariance) > np.diag(marginal.covariance))}
    assert grown == {
        *KERNEL_FAMILIES["8-bit experts"],
        *KERNEL_FAMILIES["4-bit weights"],
        *KERNEL_FAMILIES["4-bit experts"],
        *KERNEL_FAMILIES["an 8-bit KV cache"],
        *KERNEL_FAMILIES["latent attention"],
        *KERNEL_FAMILIES["expert parallelism"],
        *KERNEL_FAMILIES["attention data parallel"],
        *WIDE_TP_PARAMETERS,
    }
    assert wider.seen is None
    known = DeploymentArrays.from_columns(COLUMNS | {"dtype": "fp8", "kv_dtype": "auto", "tp": 2, "ep": 1}, DENSE, GPU)
    assert widened(marginal, (DENSE, known)).covariance == pytest.approx(marginal.covariance)


def test_what_one_model_alone_had_is_less_certain_than_what_several_had():
    """And more certain than what none had; the answer says so."""
    marginal = shipped_surrogate().marginal("vllm", GPU.name)
    marginal = replace(marginal, seen=replace(marginal.seen, often=frozenset()))
    cached = DeploymentArrays.from_columns(
        COLUMNS | {"dtype": "auto", "kv_dtype": "fp8", "tp": 1, "ep": 1, "pp": 1}, DENSE, GPU
    )
    at = NAMES.index("narrow_kv_memory")
    once = extrapolation_variance(marginal.seen, DENSE, cached)[at, 0]
    assert once == pytest.approx(FEW_MODELS_SHARE * PRIORS["narrow_kv_memory"].spread ** 2)
    often = TrainingSupport(kinds=marginal.seen.kinds, often=marginal.seen.kinds, tp=4, pp=4)
    assert extrapolation_variance(often, DENSE, cached)[at, 0] == 0
    assert extrapolation_variance(TrainingSupport(tp=4, pp=4), DENSE, cached)[at, 0] > once
    found = advisor.estimate("openai/gpt-oss-120b", "1xH200", batch=8, input_len=512, output_len=64)
    assert "at most 2 models with 4-bit experts were measured with vllm on this GPU: intervals are wider for it" in [
        note.text for note in found.notes
    ]


@pytest.mark.slow
def test_answers_say_what_no_run_had_and_are_less_certain_for_it():
    def width(**options):
        found = advisor.estimate(
            "meta-llama/Llama-2-70b-hf", "2x8xH200", batch=64, input_len=1024, output_len=256, **options
        )
        low, high = found.interval("tpot_ms")
        return high / low, [note.text for note in found.notes if "no fitted run" in note.text]

    plain, told = width(tp=4)
    assert told == []
    wide, told = width(tp=16)
    assert wide > plain
    assert told == [
        "no fitted run of vllm on this GPU had tensor parallel over more than 8 GPUs: intervals are wider for it"
    ]
    experts = advisor.estimate("mixtral-8x7b", "4xH200", tp=4, dtype="int4", batch=8, input_len=512, output_len=64)
    assert "at most 2 models with 4-bit experts were measured with vllm on this GPU: intervals are wider for it" in [
        note.text for note in experts.notes
    ]
    traffic = advisor.Workload(input_len=1024, output_len=64, rate=4)
    found = [
        advisor.simulate(
            "meta-llama/Llama-2-70b-hf", "2x8xH200", deployment=advisor.Deployment(tp=tp), workload=traffic,
            duration_s=10, draws=32,
        )
        for tp in (4, 16)
    ]  # fmt: skip
    assert [any("no fitted run" in note.text for note in each.notes) for each in found] == [False, True]
    spans = [high / low for low, high in (each.interval("tpot_ms", "mean") for each in found)]
    assert spans[1] > spans[0]


def test_own_runs_of_a_kind_are_believed_as_far_as_they_go():
    run = next(
        run for run in reference_runs() if run.engine == "vllm" and (run.tp, run.pp, run.regime) == (4, 1, "static")
    )
    groups = fitted_part(group_runs([replace(run, role="fit")]))
    start = replace(shipped_surrogate().marginal("vllm", GPU.name), seen=TrainingSupport(tp=2, pp=4))
    before = own_start(start, groups)
    after = update(before, groups)
    assert (
        before.covariance[NAMES.index("link"), NAMES.index("link")]
        > start.covariance[NAMES.index("link")][NAMES.index("link")]
    )
    assert after.seen == TrainingSupport(tp=4, pp=4)
    (old,), (new,) = (
        [each.variance for each in errors_of(groups, lambda *_, m=m: m) if each.metric == "tpot_ms"]
        for m in (start, after)
    )  # fmt: skip
    assert new < old


def test_what_was_seen_is_kept_in_the_file():
    shipped = shipped_surrogate()
    again = Surrogate.from_json(shipped.to_json())
    assert {key: each.seen for key, each in again.marginals.items()} == {
        key: each.seen for key, each in shipped.marginals.items()
    }
    assert analytic_marginal().seen is None
    runs = [*shipped_runs(), *read_published(PUBLISHED).runs]
    runs = [run for run in runs if (run.engine, run.gpu, run.role) == ("vllm", GPU.name, "fit")]
    assert shipped.marginal("vllm", GPU.name).seen == training_support(fitted_part(group_runs(runs)))


@pytest.mark.slow
@pytest.mark.slow
def test_intervals_hold_for_kinds_left_out():
    found = trials(["8-bit weights", "tensor parallel over more than 2 GPUs"])
    assert [each.metric for each in found] == ["prefill_ms", "tpot_ms", "e2e_ms"] * 2
    held = sum(each.held * each.runs for each in found) / sum(each.runs for each in found)
    before = sum(each.held_before * each.runs for each in found) / sum(each.runs for each in found)
    assert held >= max(0.9, before)
    assert all(each.width >= each.width_before for each in found)

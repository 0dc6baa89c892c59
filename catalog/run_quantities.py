"""What one measured run says beside its fields: throughput, energy, power and traffic; None where it does not say it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from catalog.units import GIB

if TYPE_CHECKING:
    from catalog.schema import Measurement


def tok_s(run: Measurement) -> float | None:
    """Return output tokens a second of all replicas."""
    if run.output_tok_s is None and run.e2e_ms and run.regime == "static":
        return run.batch * run.dp * run.output_len / run.e2e_ms * 1e3
    return run.output_tok_s


def tok_s_per_gpu(run: Measurement) -> float | None:
    """Return output tokens a second over the GPUs used."""
    total = tok_s(run)
    return None if total is None else total / run.deployment.num_gpus


def tpot_ms(run: Measurement) -> float | None:
    """Return milliseconds for an output token after the first."""
    return run.tpot_ms


def decode_tok_s(run: Measurement) -> float | None:
    """Return output tokens a second after the first ones, all replicas."""
    return run.batch * run.dp / run.tpot_ms * 1e3 if run.tpot_ms else None


def joules_per_token(run: Measurement) -> float | None:
    """Return the energy of the whole deployment for one output token, its share of the prompt's included, of a static batch."""
    if run.energy_j is None or not run.batch or run.regime != "static":
        return None
    return run.energy_j / (run.batch * run.dp * run.output_len)


def power_w(run: Measurement) -> float | None:
    """Return the mean power of one GPU over the whole run, sampled or else from its energy."""
    if run.power_w is not None:
        return run.power_w / run.deployment.num_gpus
    if run.energy_j is None or not run.e2e_ms or run.regime != "static":
        return None
    return run.energy_j / (run.e2e_ms * 1e-3) / run.deployment.num_gpus


def gib_sent(run: Measurement) -> float | None:
    """Return GiB that one GPU sent in the whole run."""
    return None if run.comm_bytes is None or run.deployment.num_gpus == 1 else run.comm_bytes / GIB

"""How nearly the logits of a deployment are those of the plainest run of the same model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

SEQUENCES = 8
PROMPT = 24
FORCED = 8
"""Compared are this many sequences of ``PROMPT`` tokens, each continued for ``FORCED`` steps with tokens that are given,
not chosen: one near tie would make all that follows another text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Logits compared with those of a reference, at the same tokens."""

    max_logit_diff: float
    """Largest difference of two logits."""
    top1_agreement: float
    """Share of the places at which both like the same token best."""
    ppl_diff: float
    """Perplexity of the given tokens, relative to that of the reference, less 1."""

    def fields(self) -> Mapping[str, float]:
        """Return the numbers as ``Measurement`` names them."""
        rounded = {
            "max_logit_diff": round(self.max_logit_diff, 6),
            "top1_agreement": round(self.top1_agreement, 4),
            "ppl_diff": round(self.ppl_diff, 8),
        }
        return {name: value for name, value in rounded.items() if math.isfinite(value)}


def sequences(vocab_size: int, count: int = SEQUENCES) -> np.ndarray:
    """Return token ids (count, PROMPT + FORCED), the same for everyone."""
    generator = np.random.default_rng(1)
    return generator.integers(min(1000, vocab_size - 1), vocab_size, (SEQUENCES, PROMPT + FORCED))[:count]


def compare(logits: np.ndarray, reference: np.ndarray, ids: np.ndarray) -> Agreement:
    """Compare ``logits`` with ``reference``, (sequences, steps, vocabulary), float32; ``ids``, (sequences, steps), are
    the tokens that each of them should have foretold. A logit that is no number agrees with nothing.
    """
    assert logits.shape == reference.shape
    difference = np.abs(logits.astype(np.float64) - reference)
    finite = bool(np.isfinite(difference).all())
    own, others = (_log_likelihood(scores, ids) for scores in (logits, reference))
    return Agreement(
        max_logit_diff=float(difference.max()) if finite else math.inf,
        top1_agreement=float(np.mean(logits.argmax(axis=-1) == reference.argmax(axis=-1))) if finite else 0.0,
        ppl_diff=math.expm1(others - own) if finite else math.inf,
    )


def _log_likelihood(logits: np.ndarray, ids: np.ndarray) -> float:
    """Return mean over all tokens, in nats."""
    wide = logits.astype(np.float64)
    highest = wide.max(axis=-1, keepdims=True)
    norms = highest[..., 0] + np.log(np.exp(wide - highest).sum(axis=-1))
    return float(np.mean(np.take_along_axis(wide, ids[..., None], axis=-1)[..., 0] - norms))

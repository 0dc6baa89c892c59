"""The tables of cosines and sines that engines hold for rotary embedding: one row a position, one table a kind of layer.

vllm/model_executor/layers/rotary_embedding (0.33): a table has ``max_position_embeddings`` rows whatever ``max_model_len`` is,
``factor`` times as many for linear scaling, ``factor`` times the original length for YaRN and four times for several axes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from catalog.mixers import LatentAttention, Recurrence
from catalog.models.stack import stack

if TYPE_CHECKING:
    from collections.abc import Mapping

    from catalog.config_fields import Fields
    from catalog.schema import Model

STATED = ("rope_parameters", "rope_scaling")
AXES = 4
"""Rows of a table for positions on several axes, in longest contexts (``mrope.py``)."""
LOCAL_BASE = ("gemma3", "gemma3_text")
"""Types whose windowed layers have another base without a word (``configuration_gemma3.py``)."""
MOST_ROWS = 1e9
"""Numbers above are no length and no factor."""
MOST_NUMBERS = 10**12


def rotary_numbers(model: Model) -> int:
    """Return the numbers of a model's tables: those that its configuration came to, or of one plain table."""
    return model.rotary_numbers or (0 if model.learned_positions else model.max_position_embeddings * _width(model))


def read_rotary(c: Fields, model: Model) -> int:
    """Return the numbers of the tables that a configuration asks for; 0 where it asks for the plain one.

    Layers of several kinds have a table each: their own scaling (``rope_parameters`` by kind of layer), or another base
    (``rope_local_base_freq``). What cannot be read counts as plain.
    """
    if model.learned_positions:
        return 0
    stated = next((part.as_dict() for name in STATED if (part := c.maybe_object(name)) is not None), {})
    by_kind = [kind for kind in stated.values() if isinstance(kind, dict)] if "rope_theta" not in stated else []
    positions, whole = model.max_position_embeddings, c.as_dict()
    rows = 0.0
    for table in by_kind or [stated]:
        share = _number(table, "partial_rotary_factor", _number(whole, "partial_rotary_factor", 1.0))
        rows += _rows(table, positions) * min(share, 1.0)
    local = model.model_type in LOCAL_BASE and not by_kind
    if _number(whole, "rope_local_base_freq", 1.0 if local else 0.0):
        rows += positions
    numbers = round(min(rows * _width(model), MOST_NUMBERS))
    return 0 if numbers == rotary_numbers(model) else numbers


def _width(model: Model) -> int:
    """Return the columns of a table: the rotated part of a head."""
    mixers = [part for layer in stack(model).kinds for part in layer.mixers if not isinstance(part, Recurrence)]
    latent = next((part for part in mixers if isinstance(part, LatentAttention)), None)
    return latent.rope_dim if latent else model.head_dim if mixers else 0


def _rows(table: Mapping[str, Any], positions: int) -> float:
    kind = table.get("rope_type", table.get("type"))
    original = _number(table, "original_max_position_embeddings", positions)
    axes = AXES if isinstance(table.get("mrope_section"), list) else 1
    factor = _number(table, "factor", 1.0)
    if kind == "longrope":
        return positions + original
    if kind in ("linear", "dynamic"):
        return positions * max(factor, 1.0)
    if kind in ("yarn", "deepseek_yarn"):
        return original * factor * axes
    return positions * axes


def _number(values: Mapping[str, Any], name: str, default: float) -> float:
    value = values.get(name)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value <= MOST_ROWS:
        return default
    return float(value)

"""What people write for a model beside its name: formats in ids, tags of Ollama, beginnings of names, one typing error."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from catalog.names import squash

if TYPE_CHECKING:
    from collections.abc import Mapping

    from catalog.names import Meaning

SHORTEST = 6
"""Letters from which on a beginning or a typing error is read."""
SHORTEST_END = 12
"""Letters from which on an end of a name is read: "llama-8b" ends other models' names than those that it means."""

GGUF = "gguf"
"""Said of a mixture of llama.cpp's formats, which has a name of its own."""

FORMATS: tuple[tuple[str, str, float | None], ...] = (
    (r"nvfp4|fp4", "nvfp4", None),
    (r"mxfp4(?:[-_]preview)?", "mxfp4", None),
    (r"fp8(?:[-_](?:dynamic|static|kv|block|pertensor|per[-_]tensor))*", "fp8", None),
    (
        r"(?:awq|gptq|autoround|bnb)[-_]?(?:int|w)?8(?:bits?)?(?:a16)?|(?:quantized[.-])?w8a8|(?:quantized[.-])?w8a16|int8|8bit",
        "int8",
        None,
    ),
    (r"(?:(?:ud[-_])?i?q[1-8](?:[-_](?:k|[01]|nl|xxs|xs|s|m))?(?:[-_](?:xxs|xs|s|m|l|xl))?[-_])?gguf", GGUF, None),
    (r"(?:ud[-_])?i?q[1-8][-_](?:k|[01]|nl|xxs|xs|s|m)(?:[-_](?:xxs|xs|s|m|l|xl))?", GGUF, None),
    (
        r"(?:awq|gptq|autoround)(?:[-_]?(?:int|w)?4(?:bits?)?(?:a16)?)?|(?:quantized[.-])?w4a16|int4|4bit|(?:unsloth[-_])?bnb[-_]4bit",
        "int4",
        None,
    ),
    (r"qat", "int4", 0.5),
    (r"bf16|fp16", "", None),
)
"""What ends an id of a quantised checkpoint, its format, and bits of scales a weight where they differ from the usual. The more
special come first."""

BLOCKS = re.compile(r"(?:^qwen/.*-fp8$)|fp8[-_]block$", re.IGNORECASE)
"""Ids of fp8 checkpoints with one scale a block of 128 x 128 weights: Qwen's own (``quantization_config.weight_block_size`` of Qwen3 to
Qwen3.5) and those that LLM Compressor's scheme FP8_BLOCK names."""

TAIL = re.compile(rf"^(.+?)[-_.:](?:{'|'.join(f'({pattern})' for pattern, _, _ in FORMATS)})$", re.IGNORECASE)


TUNED = frozenset({"instruct", "it", "chat"})
"""Words that end the name of the one model of a kind that there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a spelling is read as."""

    meaning: Meaning
    quantization: str = ""
    scale_bits: float | None = None
    mixture: str = ""
    """Of a GGUF file, the part of its name that says which."""
    guessed: bool = False
    """It is a beginning, of more than the word for what a model was tuned to, or has a typing error: no id of a checkpoint."""


def read_spelling(name: str, meanings: Mapping[str, Meaning]) -> Reading | None:
    """Return what ``name``, which is no name of the catalog, is read as; None where that is nothing or not sure.

    Args:
        name: as it was typed.
        meanings: of the catalog, by squashed name.

    """
    base, form, scales, mixture = name, "", None, ""
    for _ in range(3):  # "-W4A16-GGUF" and the like
        bare = base.rpartition("/")[2].replace(":", "-")
        known = next((meanings[key] for key in map(squash, (base, bare, f"meta-{bare}")) if key in meanings), None)
        if known is not None:
            return Reading(meaning=known, quantization=form, scale_bits=scales, mixture=mixture)
        tail = TAIL.match(base.replace(":latest", ""))
        if tail is None:
            break
        base = tail[1]
        number, text = next((i, group) for i, group in enumerate(tail.groups()[1:]) if group is not None)
        found, widths = FORMATS[number][1:]
        if found == GGUF and form in ("", GGUF):
            mixture = mixture if mixture and mixture.casefold() != GGUF else text
        form, scales = (form, scales) if form else (found, widths)
    if form or "/" in name or len(squash(name)) < SHORTEST:
        return None
    typed = squash(name.replace(":", "-"))
    begun = {meaning.name: meaning for spelling, meaning in meanings.items() if spelling.startswith(typed)}
    entries = {meaning.entry for meaning in begun.values()}
    if len(entries) == 1:
        rests = {spelling.removeprefix(typed) for spelling in meanings if spelling.startswith(typed)}
        return Reading(meaning=next(iter(begun.values())), guessed=not rests <= TUNED)
    if begun:  # "qwen3-235b": the name that all others go on from
        first = min((spelling for spelling in meanings if spelling.startswith(typed)), key=len)
        rooted = all(squash(name.rpartition("/")[2]).startswith(first) for name in begun)
        return Reading(meaning=meanings[first], guessed=True) if rooted else None
    ended = {meaning.entry: meaning for spelling, meaning in meanings.items() if spelling.endswith(typed)}
    if len(ended) == 1 and len(typed) >= SHORTEST_END:
        return Reading(meaning=next(iter(ended.values())), guessed=True)
    near = {meaning.entry: meaning for spelling, meaning in meanings.items() if is_one_slip(typed, spelling)}
    return Reading(meaning=next(iter(near.values())), guessed=True) if len(near) == 1 else None


def is_one_slip(typed: str, meant: str) -> bool:
    """Say whether one letter is missing, too many, wrong, or swapped with the next; digits are never slips."""
    if typed == meant or abs(len(typed) - len(meant)) > 1:
        return False
    same = next((i for i, (a, b) in enumerate(zip(typed, meant, strict=False)) if a != b), min(len(typed), len(meant)))
    rest, other = typed[same:], meant[same:]
    slips = ((rest[1:], other, rest[:1]), (rest, other[1:], other[:1]), (rest[1:], other[1:], rest[:1] + other[:1]))
    letters = next((letters for a, b, letters in slips if a == b), "")
    if letters:
        return not any(letter.isdigit() or letter == "." for letter in letters)
    return (
        len(rest) > 1 and rest[:2] == other[1::-1] and rest[2:] == other[2:] and not any(c.isdigit() for c in rest[:2])
    )

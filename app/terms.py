"""The words and units of the pages, explained once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from advisor.render.vocabulary import E2E, ITL, PROVENANCE, TPOT, TRAINING_PROVENANCE, TTFT
from app.plain_text import capitalised, plain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TERMS: Mapping[str, str] = {
    TTFT: "time to the first token: from when a request comes until its first output token, in ms or s.",
    TPOT: "time per output token after the first, the mean over a request, in ms.",
    ITL: "inter-token latency: the time between two tokens of a request, in ms.",
    E2E: "time of a whole request, from its coming to its last token.",
    "tok/s": "output tokens a second; prompts do not count. Per GPU: divided by the GPUs that are used.",
    "TP": "tensor parallel: so many GPUs share each layer.",
    "PP": "pipeline parallel: the layers are split into so many stages, one after the other.",
    "replica": "one copy of the model on its TP x PP GPUs. 2 x TP4 PP1: two copies, each on four GPUs.",
    "batch": "sequences that one replica works on at once.",
    "KV cache": "GPU memory that keeps what a model has read and written of each running request.",
    "weights": "format of the model's parameters: fewer bits take less memory and time, and may cost answers' quality.",
    "context": "tokens of prompt and answer together that a request may have.",
    "90% interval": "the true value lies in it nine times in ten; in brackets behind the estimate.",
    "p95": "95% of the requests are at most so slow.",
    "GiB": "1,073,741,824 bytes; GB/s of links and memory are 1,000,000,000 bytes a second.",
    "$ per GPU-hour": "what one GPU costs an hour; $ per M tokens: of a million output tokens.",
    "load": "the rate as a share of the rate at which requests begin to pile up.",
    "spare": "a replica more than the traffic needs, so that one may fail.",
    "headroom": "so much more traffic than stated still keeps the limits.",
    "TFLOP/s": "a million million multiplications and additions a second, without sparsity.",
    "MFU": "model FLOPs utilisation: the share of the GPU's peak that goes into the model's own operations.",
    "step": "one update of the weights from one batch of training sequences.",
    "LoRA": "low-rank adapters: only small matrices beside the weights are trained.",
    "pool": "GPUs of one kind at one price, owned, reserved or rented by the hour.",
    "run": "one configuration as it was measured; fit: predictions learn from it; validate: it only judges them.",
    **{origin: words.partition(": ")[2] for origin, words in PROVENANCE.items()},
}
"""What a word of the pages means."""
TRAINING_TERMS: Mapping[str, str] = {
    **TERMS,
    **{origin: words.partition(": ")[2] for origin, words in TRAINING_PROVENANCE.items()},
}
"""The same for training, whose answers stand on other evidence."""


def explained(names: Sequence[str], *, trains: bool = False) -> None:
    """Show a button that opens the meaning of some words; ``trains``: of a page on training."""
    terms = TRAINING_TERMS if trains else TERMS
    with st.popover("Terms and units", icon=":material/menu_book:", type="tertiary", width="content"):
        st.markdown("\n".join(f"- **{plain(name)}**: {plain(capitalised(terms[name]))}" for name in names))

"""Which drafted tokens are accepted. Importing this module imports numba; nothing but a simulation does.

Whether a token can be guessed belongs to the token and not to when it is drafted: the same requests meet the same fate on whatever
deployment serves them, in the same run of steps or in another, and a higher rate never takes more steps.
"""

from __future__ import annotations

from typing import Any

from advisor.simulator.compilation import compiled
from advisor.simulator.splitmix import NUMBERS, splitmix


@compiled
def accepted(rates: Any, request: int, token: int, drafted: int) -> int:
    """Count the accepted ones of so many drafted tokens, the first of which would be the ``token``-th of its request."""
    key = (splitmix(request) << 31) + int(token)
    for i in range(drafted):
        if splitmix(key + i) >= rates[i] * NUMBERS:
            return i
    return drafted


@compiled
def drafts_ms(drafts: Any, tokens: int, decodes: int, sequences: int) -> float:
    """Return milliseconds that drafts add to a step, see ``advisor.simulator.draft_table.Drafts``."""
    return float(drafts.by_decodes[decodes] + drafts.by_tokens[tokens] + drafts.by_sequences[sequences])


@compiled
def verify(drafts: Any, gone: int, q: int, drafted: int, wanted: int, made: Any, computed: Any) -> int:
    """Return how many tokens a decoding request gets of a step; all but the one that every request gets are counted as made and computed.

    Args:
        drafts: see ``advisor.simulator.draft_table.Drafts``.
        gone: requests that have left the arrays,
        q: and the place of this one in them.
        drafted: tokens drafted for it.
        wanted: tokens of its output.
        made: tokens that every request has, changed,
        computed: and those in its cache, changed.

    """
    more = min(accepted(drafts.rates, gone + q, made[q], drafted), wanted - made[q] - 1)
    made[q] += more
    computed[q] += more
    return int(1 + more)


@compiled
def withdraw_drafts(yielding: Any, emitted: Any, sequences: int, q: int, made: Any, computed: Any) -> int:
    """Take back what a request gets of a step beyond one token, where it is one of the ``sequences`` that get some; return how many.

    ``yielding``: which they are, still with it; ``emitted``: tokens of each, closed up as ``yielding`` then is; the others as in ``verify``.
    """
    for i in range(sequences):
        if yielding[i] == q:
            more = emitted[i] - 1
            for j in range(i, sequences - 1):
                emitted[j] = emitted[j + 1]
            made[q] -= more
            computed[q] -= more
            return int(more)
    return 0

"""What the requests of a trace have in common, by the hashes of the blocks of their prompts.

Traces of Mooncake (``hash_ids`` of 512 tokens), of Alibaba's Bailian (of 16) and of InferenceX (of 64) give each prompt as a
list of numbers, one a block, the last one often of a block that is not full. Prompts share the blocks up to the first
number in which they differ; what a model answers is in no such list and is shared with nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from advisor.simulator.prompt_sharing import NONE, PromptSharing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

SIZES = tuple(2**power for power in range(4, 13))
"""Tokens of a block that a trace may mean."""
OF_ONE_SESSION = 0.5
"""A request that shares so much of its prompt with an earlier one belongs to its session, as far as routers that keep sessions
on a replica are concerned."""


def block_size(hashes: Sequence[Sequence[Any]], inputs: NDArray[np.int64]) -> int | None:
    """Return the tokens of a block: the size at which every prompt of ``inputs`` tokens, (n,), has as many as it has hashes;
    None where there is none.
    """
    counts = np.array([len(row) for row in hashes])
    return next((size for size in SIZES if ((counts == -(-inputs // size)) | (counts == inputs // size)).all()), None)


def sharing_of(hashes: Sequence[Sequence[Any]], inputs: NDArray[np.int64]) -> PromptSharing | None:
    """Return what n requests share, by the hashes of their prompts of ``inputs`` tokens, (n,); None where those fit blocks of
    no size.
    """
    n, size = len(hashes), block_size(hashes, inputs)
    if size is None:
        return None
    parent, branch = np.full(n, NONE), np.zeros(n, np.int64)
    session = np.arange(n)
    nodes: dict[tuple[int, Any], int] = {}
    owners: list[int] = []
    """The request that was the first to send the blocks up to each node."""
    lengths = inputs.tolist()
    for request, chain in enumerate(hashes):
        node, shared = NONE, 0
        for number, key in enumerate(chain):
            following = nodes.get((node, key))
            if following is None:
                following = nodes[node, key] = len(owners)
                owners.append(request)
            elif owners[following] != request:
                shared = number + 1
                parent[request] = owners[following]
            node = following
        if shared:
            owner = int(parent[request])
            branch[request] = min(shared * size, lengths[request], lengths[owner])
            if branch[request] >= OF_ONE_SESSION * lengths[request]:
                session[request] = session[owner]
    return PromptSharing(
        stream=np.arange(n),
        parent=parent,
        branch=branch,
        session=session,
        after=np.full(n, NONE),
        wait_s=np.zeros(n),
    )

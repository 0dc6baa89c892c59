"""Token budgets of a step: smaller ones let prompts fill what decode steps leave idle.

A step that decodes waits for memory, so that some prompt tokens beside it take no time of their own; more than that lengthen it. A smaller
``max_num_batched_tokens`` cuts prompts into chunks of that size (Agrawal et al., "Sarathi-Serve", OSDI 2024), at the price of the first token,
whose prompt takes more steps.
"""

BUDGETS = (512, 1024, 2048, 4096, 8192, 16384)
"""Tried beside the engine's own: from the largest batch that vLLM captures in CUDA graphs to what it takes on the largest GPUs."""

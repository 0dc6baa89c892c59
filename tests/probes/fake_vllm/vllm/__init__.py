"""A stand-in for vLLM 0.24: what the probes use of it, under its names, on made-up hardware.

It is put on the path of programs that measure vLLM. Arguments that vLLM does not have are refused; times are slept, and
grow with tokens as an engine's do. ``FAKE_VLLM``, a JSON object in the environment, makes it go wrong:

    crash       ends the process at batches of so many sequences
    dies        the engine dies of too little memory at batches of so many sequences: its log says so, its client does not
    starve      "weights" or "cache" runs out of memory at start, told as vLLM tells it: in the log
    only        all of this for the deployment with this ``max_num_seqs`` alone
"""

from vllm.offline import LLM
from vllm.sampling_params import SamplingParams

__version__ = "0.24.0"
__all__ = ["LLM", "SamplingParams", "__version__"]

"""As much of torch as measuring vLLM asks for, where there is none."""

from types import SimpleNamespace

version = SimpleNamespace(cuda="13.0")
cuda = SimpleNamespace(mem_get_info=lambda _: (14 * 2**30, 140 * 2**30))

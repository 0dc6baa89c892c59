"""What a release of an engine says of itself, read from its wheel without running any of it, beside what the catalog says.

``python -m catalog.engines.wheel_facts vllm-0.33.0-cp38-abi3-manylinux_2_28_x86_64.whl``
"""

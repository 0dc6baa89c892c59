"""Facts read from a wheel made up here."""

import ast
import re
import zipfile

import pytest

from catalog.engines.registry import find_engine
from catalog.engines.wheel_facts import tuned_experts
from catalog.engines.wheel_facts.__main__ import FACTS, ROOTS, main
from catalog.engines.wheel_facts.evaluation import Case
from catalog.engines.wheel_facts.facts import compare
from catalog.engines.wheel_facts.options import command_options
from catalog.engines.wheel_facts.tuned_experts import tables_of
from catalog.engines.wheel_facts.wheel import MissingFactError, open_wheel
from catalog.errors import InputError

CACHE = """
import somewhere_that_is_not_installed
raise SystemExit("this file was executed")
KVOffloadingBackend = Literal["native"]
CacheDType = Literal["auto", "float16", "bfloat16", "fp8", "nvfp4", "fp1"]
class CacheConfig:
    DEFAULT_BLOCK_SIZE: ClassVar[int] = 16
    gpu_memory_utilization: float = Field(default={share}, gt=0, le=1)
"""
ARGUMENTS = """
class EngineArgs:
    @staticmethod
    def add_cli_args(parser):
        model_kwargs = get_kwargs(ModelConfig)
        group = parser.add_argument_group(title="ModelConfig")
        group.add_argument("--dtype", "-d", **model_kwargs["dtype"])
        group.add_argument("--enforce-eager", action="store_true")
        group.add_argument("--seed", type=int)

    @classmethod
    def get_batch_defaults(cls, world_size):
        from vllm.usage.usage_lib import UsageContext
        tokens: dict[UsageContext, int]
        try:
            memory = current_platform.get_device_total_memory()
            name = current_platform.get_device_name().lower()
            gb10 = current_platform.is_device_capability((12, 1))
        except Exception:
            memory = 0
        if memory >= 160 * GiB_bytes:
            tokens = {UsageContext.OPENAI_API_SERVER: 16384}
            seqs = {UsageContext.OPENAI_API_SERVER: 1024}
        elif memory >= 70 * GiB_bytes and "a100" not in name and not gb10:
            tokens = {UsageContext.LLM_CLASS: 16384, UsageContext.OPENAI_API_SERVER: 4096}
            seqs = {UsageContext.OPENAI_API_SERVER: 1024}
        else:
            tokens = {UsageContext.OPENAI_API_SERVER: 2048}
            seqs = {UsageContext.OPENAI_API_SERVER: 256}
        if current_platform.is_cpu():
            tokens = {UsageContext.OPENAI_API_SERVER: 2048 * world_size}
            seqs = {UsageContext.OPENAI_API_SERVER: 128 * world_size}
        return tokens, seqs
"""
REGISTRY = '_PREVIOUSLY_SUPPORTED_MODELS = {"MptForCausalLM": "0.28.0", "Qwen3ForCausalLM": "0.33.0", "NeverSeenModel": "0.1.0"}'
QUANTISED = """
class Fp8Config:
    @classmethod
    def get_min_capability(cls) -> int:
        # from Turing on
        return 75
"""


def fatbin(*architectures):
    """Return a container of machine code for each architecture, as ``nvcc`` writes it, with PTX for compute capability 5.2."""
    parts = b"".join(
        kind.to_bytes(2, "little")
        + bytes(2)
        + (64).to_bytes(4, "little")
        + (8).to_bytes(8, "little")
        + bytes(12)
        + architecture.to_bytes(4, "little")
        + bytes(32 + 8)
        for kind, architecture in ((1, 52), *((2, architecture) for architecture in architectures))
    )
    return (
        b"\x50\xed\x55\xba"
        + (1).to_bytes(2, "little")
        + (16).to_bytes(2, "little")
        + len(parts).to_bytes(8, "little")
        + parts
    )


@pytest.fixture
def made(tmp_path):
    """Return a function that writes a wheel of a release and returns its path."""

    def make(version="0.34.0", share=0.92, name="vllm", **files):
        path = tmp_path / f"{name}-{version}-py3-none-any.whl"
        sources = {
            "config/cache.py": CACHE.format(share=share),
            "config/model.py": 'ModelDType = Literal["auto", "half"]\nclass ModelConfig:\n    dtype: ModelDType = "auto"',
            "engine/arg_utils.py": ARGUMENTS,
            "entrypoints/common/cli_args.py": "class BaseFrontendArgs:\n    port: int = 8000\nclass FrontendArgs:\n    ssl: bool = False",
            "model_executor/models/registry.py": REGISTRY,
            "model_executor/layers/quantization/fp8.py": QUANTISED,
            "v1/metrics/loggers.py": 'gauge(name="vllm:num_requests_running")\ncounter(name="vllm:request_success")',
            "_C_stable_libtorch.abi3.so": b"\x7fELF" + fatbin(90, 75) + bytes(100) + fatbin(80),
        } | files
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(
                f"{name}-{version}.dist-info/METADATA", f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n"
            )
            for inside, source in sources.items():
                archive.writestr(f"vllm/{inside}", source)
        return path

    return make


def compared(path):
    wheel = open_wheel(path, ROOTS)
    return {fact.name: compare(fact, find_engine("vllm"), wheel) for fact in FACTS["vllm"]}


def test_facts_are_the_same_differ_or_are_not_there(made):
    facts = compared(made(share=0.95))
    assert facts["release"].lines == ("wheel: 0.34.0", f"catalog: {find_engine('vllm').version}")
    assert facts["gpu_memory_utilization"].lines == ("wheel: 0.95", "catalog: 0.92")
    assert facts["block_size"].verdict == facts["port"].verdict == facts["fp8 weights from"].verdict == "same"
    assert facts["min_capability"].verdict == "same"
    assert facts["KV formats"].verdict == "same"
    assert facts["sizes of CUDA graphs"].verdict == "not found"
    assert facts["sizes of CUDA graphs"].lines[0] == "no file config/vllm.py"


def test_defaults_are_followed_for_every_gpu(made):
    lines = compared(made())["max_num_batched_tokens and max_num_seqs"].lines
    changed = {line.split(":")[0] for line in lines}
    assert {"H100-SXM", "H200-SXM"} <= changed
    assert not changed & {"B200", "A100-SXM-80GB", "L40S", "MI300X"}
    assert "H200-SXM: wheel 4096 tokens, 1024 sequences, catalog 8192 tokens, 1024 sequences" in lines


def test_what_one_side_lacks_is_told(made):
    facts = compared(made())
    assert "qwen3: wheel 0.33.0, catalog nothing" in facts["dropped models"].lines
    assert "persimmon: wheel nothing, catalog 0.25.0" in facts["dropped models"].lines
    assert not any(line.startswith(("mpt", "never")) for line in facts["dropped models"].lines)
    (missing,) = facts["metrics"].lines
    assert missing.startswith("catalog alone: ")
    assert "num_requests_running" not in missing


def test_what_cannot_be_followed_is_not_guessed(made):
    odd = "class E:\n    def get_batch_defaults(cls, n):\n        return measure_the_gpu(), 3"
    fact = compared(made(**{"engine/arg_utils.py": odd}))["max_num_batched_tokens and max_num_seqs"]
    assert fact.verdict == "not found"
    assert fact.lines[0] == "nothing is known of 'measure_the_gpu()'"


@pytest.mark.parametrize(
    "bad",
    [
        "return [n for n in range(10**9)]",
        "return 1 // 0",
        "raise ValueError('no')",
        "return a.b",
        "return (lambda: 1)()",
    ],
)
def test_evaluation_ends(bad):
    with pytest.raises(MissingFactError):
        Case(values={}).run(ast.parse(f"def f():\n    {bad}").body[0].body)


def test_evaluation_of_a_function():
    source = """
def f(most):
    sizes = [n for n in [1, 2, 4] if n <= most]
    if most >= 8 and self.config.padded is not None:
        sizes += list(range(8, min(most + 1, 256), 8))
    assert sizes
    if most not in sizes:
        sizes.append(most)
    return sorted(set(sizes)) if most > 0 else None
"""
    body = ast.parse(source).body[0].body
    assert Case(values={"most": 20, "self.config.padded": True}).run(body) == [1, 2, 4, 8, 16, 20]
    assert Case(values={"most": 20, "self.config.padded": None}).run(body) == [1, 2, 4, 20]


def test_options_of_the_command(made):
    options = command_options(open_wheel(made(), ROOTS))
    assert options["--dtype"] == options["-d"] == {"value": True, "choices": ["auto", "half"]}
    assert options["--enforce-eager"] == options["--ssl"] == {"value": False}
    assert options["--seed"] == options["--port"] == {"value": True}


def test_tables_of_tuned_experts_are_read_from_their_names(made, monkeypatch, tmp_path, capsys):
    folder = "model_executor/layers/fused_moe/configs/"
    names = (
        "E=8,N=7168,device_name=NVIDIA_H200.json",
        "E=8,N=7168,device_name=NVIDIA_H200,dtype=fp8_w8a8,block_shape=[128,128].json",
        "E=8,N=7168,device_name=NVIDIA_H200,dtype=int4_w4a16.json",
        "E=8,N=7168,device_name=NVIDIA_B200.json",
        "README",
    )
    path = made(**{folder + name: "{}" for name in names})
    read = {("H200-SXM", 8, 7168, "16 bits"), ("H200-SXM", 8, 7168, "fp8 blocks")}
    assert tables_of(open_wheel(path, ROOTS)) == read
    fact = compared(path)["tuned experts"]
    assert fact.verdict == "differs"
    assert any(line.startswith("catalog alone: ") for line in fact.lines)
    monkeypatch.setattr(tuned_experts, "TUNED", tmp_path / "tuned.csv")
    assert main(["--tuned-experts", str(path)]) == 0
    assert capsys.readouterr().out == "2 tables\n"
    assert (tmp_path / "tuned.csv").read_text().split() == [
        "gpu,experts,width,weights",
        "H200-SXM,8,7168,16",
        "bits",
        "H200-SXM,8,7168,fp8",
        "blocks",
    ]
    assert compared(made())["tuned experts"].lines[0] == f"no tables in {folder.rstrip('/')}"


def test_padding_is_that_of_the_wheels_release():
    vllm = find_engine("vllm")
    assert vllm.mxfp4_multiples("10.0") == vllm.mxfp4_multiples("10.3", 33) == (128, 256)
    assert vllm.mxfp4_multiples("10.0", 24) == (256, 256)
    assert vllm.mxfp4_multiples("9.0", 24) == vllm.mxfp4_multiples("9.0") == (64, 1)
    assert vllm.mxfp4_multiples("7.5") == (1, 1)


def test_exit_status_and_report(made, capsys):
    assert main([str(made(share=0.95))]) == 1
    printed = capsys.readouterr().out
    assert re.search(
        r"^differs +gpu_memory_utilization +\(config/cache.py CacheConfig\)\n +wheel: 0.95\n +catalog: 0.92$",
        printed,
        re.MULTILINE,
    )
    assert re.search(r"^same +block_size +16$", printed, re.MULTILINE)
    assert main(["--options", str(made())]) == 0
    assert '"--dtype"' in capsys.readouterr().out


def test_no_wheel_of_an_engine(made, tmp_path, capsys):
    (tmp_path / "text.whl").write_text("no archive")
    for path, message in (
        (made(name="numpy"), "is a wheel of 'numpy'; facts are read of vllm and sglang"),
        (tmp_path / "text.whl", "is no wheel; name a .whl file of vllm or sglang"),
        (tmp_path / "none.whl", "is no file; name a wheel, such as"),
    ):
        with pytest.raises(InputError, match=re.escape(message)):
            open_wheel(path, ROOTS)
        assert main([str(path)]) == 2
        assert message in capsys.readouterr().err

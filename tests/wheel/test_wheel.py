"""The built wheel holds all that the product needs: modules, data, types, licence, command."""

import importlib
import importlib.metadata
import importlib.resources
import json
import os
import pkgutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import advisor

PACKAGES = ("catalog", "probes", "search", "advisor", "app")
OPTIONAL = {
    "torch",
    "safetensors",
    "triton",
    "streamlit",
    "starlette",
    "fastapi",
    "uvicorn",
    "mcp",
    "vl_convert",
    "jinja2",
    "pynvml",
    "vllm",
    "huggingface_hub",
}
"""What only extras, or an engine that the user has, bring."""
SITE = Path(sysconfig.get_path("purelib"))

if not Path(advisor.__file__).is_relative_to(SITE):
    pytest.skip("advisor is imported from a checkout; this is about an installed wheel", allow_module_level=True)


def command(*arguments, home, **options):
    script = Path(sysconfig.get_path("scripts")) / "advisor"
    environment = {"PATH": os.defpath, "HOME": str(home), "ADVISOR_HOME": str(home / "advisor")}
    return subprocess.run(
        [script, *arguments],
        check=False,
        capture_output=True,
        text=True,
        cwd=home,
        env=environment,
        timeout=120,
        **options,
    )


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_is_imported_from_the_wheel(package):
    top = importlib.import_module(package)
    assert Path(top.__file__).is_relative_to(SITE)
    absent = OPTIONAL if package in {"probes", "app"} else set()
    for module in pkgutil.walk_packages(top.__path__, f"{package}."):
        if not module.name.endswith(".__main__"):
            try:
                importlib.import_module(module.name)
            except ModuleNotFoundError as error:
                if error.name not in absent:
                    raise


@pytest.mark.parametrize("package", PACKAGES)
def test_types_are_shipped(package):
    assert importlib.resources.files(package).joinpath("py.typed").is_file()


@pytest.mark.parametrize(
    ("package", "folder", "suffix", "least"),
    [
        ("catalog", "data/models", ".toml", 10),
        ("catalog", "data/gpus", ".toml", 3),
        ("catalog", "data", ".toml", 2),
        ("catalog", "data/runs", ".csv", 1),
        ("advisor", "data", ".json", 1),
    ],
)
def test_data_is_shipped(package, folder, suffix, least):
    files = [each for each in (importlib.resources.files(package) / folder).iterdir() if each.name.endswith(suffix)]
    assert len(files) >= least
    assert all(each.read_text(encoding="utf-8").strip() for each in files)


def test_metadata_tells_licence_python_and_command():
    distribution = importlib.metadata.distribution("advisor")
    files = {path.name: path for path in distribution.files}
    assert "Apache License" in files["LICENSE"].read_text()
    assert distribution.metadata["License-Expression"] == "Apache-2.0"
    assert distribution.metadata["Requires-Python"] == ">=3.11"
    tops = {path.parts[0] for path in distribution.files if path.suffix == ".py"}
    assert tops == set(PACKAGES)


def test_the_public_api_is_complete():
    for name in advisor.__all__:
        assert getattr(advisor, name) is not None


def test_the_command_tells_its_version(tmp_path):
    done = command("--version", home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert importlib.metadata.version("advisor") in done.stdout


def test_the_command_recommends(tmp_path):
    done = command("recommend", "--model", "llama-13b", "--gpus", "4xA100", "--format", "json", home=tmp_path)
    assert done.returncode == 0, done.stderr
    best = json.loads(done.stdout)["best"]
    deployment = best["deployment"]
    assert 1 <= deployment["tp"] * deployment["pp"] * deployment["dp"] <= 4
    assert best["fits"] is True
    assert best["output_tok_s"] > 0


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ("json", '"output_tok_s": '),
        ("csv", ",output_tok_s,"),
        ("yaml", "\noutput_tok_s: "),
        ("markdown", "| output tokens "),
        ("table", "\noutput tokens "),
    ],
)
def test_the_command_estimates_in_every_format(tmp_path, form, words):
    arguments = ("--model", "mixtral", "--gpus", "2xH100", "--tp", "2", "--batch", "8", "--format", form)
    done = command("estimate", *arguments, home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert words in done.stdout


@pytest.mark.parametrize("form", ["vllm", "sglang", "tensorrt-llm", "compose", "kubernetes"])
def test_the_command_exports_for_every_engine(tmp_path, form):
    done = command("export", "--model", "llama-3.1-8b", "--gpus", "2xH100", "--format", form, home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Llama-3.1-8B" in done.stdout


def test_a_recommendation_needs_no_extra(tmp_path):
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({sorted(OPTIONAL)}));"
        "import advisor; print(advisor.recommend('llama-13b', '4xA100').best.fits)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"ADVISOR_HOME": str(tmp_path)},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "True"


def test_bad_input_is_one_line(tmp_path):
    done = command("recommend", "--model", "lama-13x", "--gpus", "4xA100", home=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert "llama-13b" in done.stderr

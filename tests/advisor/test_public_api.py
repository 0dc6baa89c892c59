"""``import advisor``: what it offers, that it costs nothing, and that it finds its own packages."""

import importlib.metadata
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import advisor
from catalog import errors, schema

pytestmark = pytest.mark.process

ROOT = Path(__file__).resolve().parents[2]


def python(code, folder, *, path=ROOT):
    environment = os.environ | {"PYTHONPATH": str(path), "ADVISOR_HOME": str(folder)}
    return subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=folder, env=environment
    )


def test_every_public_name_is_there():
    assert set(advisor.__all__) <= set(dir(advisor))
    for name in advisor.__all__:
        value = getattr(advisor, name)
        assert value.__name__ == name
        assert callable(value)
    assert {"estimate", "recommend", "validate", "export"} <= set(advisor.__all__)


def test_the_shared_types_are_the_catalog_s():
    assert advisor.InputError is errors.InputError
    assert advisor.Cluster is schema.Cluster


def test_star_import_brings_all_of_it(tmp_path):
    done = python("from advisor import *; print(recommend.__name__, Slo.__name__)", tmp_path)
    assert done.stdout == "recommend Slo\n", done.stderr


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'advisor' has no attribute 'answer'"):
        advisor.answer  # noqa: B018  looking is the test
    assert not hasattr(advisor, "answer")


def test_the_version_is_the_project_s():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    try:
        assert importlib.metadata.version("advisor") == advisor.__version__ == version
    except importlib.metadata.PackageNotFoundError:
        assert advisor.__version__ == "0+not.installed"


def test_importing_loads_nothing_of_it(tmp_path):
    done = python(
        "import sys, advisor; print([m for m in sys.modules if m.split('.')[0] in "
        "{'numpy', 'optuna', 'typer', 'rich', 'catalog', 'search', 'probes', 'app'}])",
        tmp_path,
    )
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize("name", ["catalog", "search", "probes", "app"])
@pytest.mark.parametrize("kind", ["module", "package", "loaded"])
def test_a_file_that_hides_a_package_is_named(tmp_path, name, kind):
    file = tmp_path / f"{name}.py" if kind != "package" else tmp_path / name / "__init__.py"
    file.parent.mkdir(exist_ok=True)
    file.write_text("")
    done = python(
        f"import {name}, advisor" if kind == "loaded" else "import advisor",
        tmp_path,
        path=f"{tmp_path}{os.pathsep}{ROOT}",
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last == f"ImportError: advisor needs its own package {name!r}, but Python finds {file}; rename that file"


def test_a_folder_of_that_name_that_is_no_package_hides_nothing(tmp_path):
    (tmp_path / "search").mkdir()
    done = python("import advisor", tmp_path, path=f"{tmp_path}{os.pathsep}{ROOT}")
    assert done.returncode == 0, done.stderr


def test_packages_that_are_missing_are_said_to_be(tmp_path):
    (tmp_path / "advisor").symlink_to(ROOT / "advisor")
    copy = tmp_path / "alone" / "advisor"
    copy.mkdir(parents=True)
    (copy / "__init__.py").write_text((ROOT / "advisor" / "__init__.py").read_text())
    environment = {"PYTHONPATH": str(copy.parent), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-S", "-c", "import advisor"],
        check=False, capture_output=True, text=True, cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert "advisor needs its own package 'catalog', but Python finds none; install advisor again" in done.stderr


def test_answers_come_from_python_too():
    found = advisor.estimate("llama-13b", "2xA100", tp=2, batch=4, input_len=128, output_len=32)
    assert isinstance(found, advisor.Estimate)
    assert advisor.export(found, "vllm").count("vllm serve") == 1
    with pytest.raises(advisor.InputError, match="unknown model"):
        advisor.recommend("lama-13x", "4xA100")

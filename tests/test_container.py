"""The container file and its Compose example: no root, every folder that the wheel needs, nothing open to the network."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "Containerfile").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))


def test_it_does_not_run_as_root():
    last = TEXT.split("FROM ")[-1]
    users = re.findall(r"^USER (\S+)", last, re.MULTILINE)
    assert users
    assert users[-1] not in {"0", "root"}
    assert last.index("USER") < last.index("ENTRYPOINT")


def test_every_package_is_copied_and_not_ignored():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    for package in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]:
        assert f"COPY {package} {package}" in TEXT
        assert f"!{package}" in ignored
    extras = re.search(r"\.\[([\w,]+)\]", TEXT)[1].split(",")
    assert set(extras) <= set(project["project"]["optional-dependencies"])


@pytest.mark.parametrize("name", list(COMPOSE["services"]))
def test_services_are_closed_and_bounded(name):
    service = COMPOSE["services"][name]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["mem_limit"]


@pytest.mark.parametrize("name", list(COMPOSE["services"]))
def test_commands_are_commands_of_the_program(name):
    import typer

    from advisor.cli import app

    command, *words = COMPOSE["services"][name]["command"]
    known = {spelled for option in typer.main.get_command(app).commands[command].params for spelled in option.opts}
    assert {word for word in words if word.startswith("--")} <= known

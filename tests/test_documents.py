"""The documentation is what it says: marked blocks, commands and options that exist, references that are current.

What commands print is compared by ``python -m benchmarks.documents --check``, which runs all of them.
"""

import importlib
import importlib.util
import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml

from advisor.cli import app
from benchmarks import documents

ROOT = documents.ROOT
PAGES = documents.pages()
GENERATORS = documents.GENERATORS


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def commands_of(text: str) -> list[str]:
    """Every call of ``advisor`` on a page: in shell blocks, after prompts and in inline code."""
    text = re.sub(r" *\\\n\s*", " ", text)
    blocks = re.findall(r"^ *```(?:sh|console)\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    lines = [line.strip().removeprefix("$ ") for block in blocks for line in block.splitlines()]
    prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)
    lines += [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose)]
    return [line for line in lines if re.match(r"advisor [a-z]", line)]


def options_of(command: str) -> tuple[str, set[str], set[str]]:
    """The subcommand's path, the options that are typed and those that there are."""
    words = shlex.split(re.split(r"[|>]|2>&1", command)[0], comments=True)[1:]
    node = typer.main.get_command(app)
    path = []
    while words and words[0] in getattr(node, "commands", {}):
        path.append(words[0])
        node = node.commands[words.pop(0)]
    assert path, f"no such command: {command}"
    known = {spelled for parameter in node.params for spelled in (*parameter.opts, *parameter.secondary_opts)}
    return " ".join(path), {word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)}, known | {"--help"}


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_every_block_that_claims_something_is_marked(page):
    text = page.read_text(encoding="utf-8")
    lines = text.splitlines()
    for block in documents.blocks(text):
        if block.kind == documents.OUTPUT:
            shown = [line.removeprefix(block.indent) for line in lines[block.start : block.end]]
            command = documents.typed(block.command)
            assert shown[: len(command)] == command
            assert len(shown) > len(command)


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_readers_see_the_command_of_what_is_recorded(page):
    text = page.read_text(encoding="utf-8")
    visible = " ".join(re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL).split())
    for block in documents.blocks(text):
        if block.kind == documents.RECORDED:
            assert block.command in visible


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent.name != "reference"], ids=relative)
def test_commands_and_their_options_exist(page):
    for command in commands_of(page.read_text(encoding="utf-8")):
        path, typed, known = options_of(command)
        assert typed <= known, f"advisor {path} has no {sorted(typed - known)}: {command}"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=relative)
def test_modules_and_files_that_are_named_exist(page):
    text = " ".join(page.read_text(encoding="utf-8").split())
    for module in re.findall(r"python -P? ?-m ([a-z_]+(?:\.[a-z_]+)*)", text):
        assert importlib.util.find_spec(module), module
    for path in re.findall(r"(?<![\w/.])((?:advisor|app|benchmarks|catalog|probes|search|tests)/[\w./-]*\w)", text):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("name", GENERATORS)
def test_generated_references_are_current(name):
    page = ROOT / "docs" / "reference" / f"{name}.md"
    text = page.read_text(encoding="utf-8")
    (block,) = documents.blocks(text)
    assert block.command == name
    stands = "\n".join(text.splitlines()[block.start : block.end]).strip()
    assert stands == GENERATORS[name]().strip(), "python -m benchmarks.documents --write docs/reference/*.md"


def test_the_readme_is_read_in_one_go():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 180
    assert len(text.encode()) <= 10_000


def test_every_page_is_in_the_navigation():
    def targets(items):
        for item in items:
            for target in item.values():
                yield from targets(target) if isinstance(target, list) else [target]

    named = set(targets(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]))
    there = {page.relative_to(ROOT / "docs").as_posix() for page in PAGES if page.name != "README.md"}
    assert {target for target in named if not target.startswith("project/")} == there


@pytest.mark.process
def test_outputs_are_written_and_compared(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(documents, "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- executed -->\n```sh\necho 1 > number\n```\n\n"
        "1. Indented:\n\n   <!-- output: cat number; echo $COLUMNS $NO_COLOR -->\n   ```console\n   old\n   ```\n\n"
        "<!-- output (exit 3): echo no; exit 3 -->\n```console\n```\n\nEnd.\n",
        encoding="utf-8",
    )
    before = page.read_text(encoding="utf-8")
    assert documents.main(["--check", str(page)]) == 1
    printed = capsys.readouterr().out
    assert "-   old" in printed
    assert "+   88 1" in printed
    assert page.read_text(encoding="utf-8") == before

    assert documents.main(["--write", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert "   ```console\n   $ cat number; echo $COLUMNS $NO_COLOR\n   1\n   88 1\n   ```\n" in text
    assert "```console\n$ echo no; exit 3\nno\n```\n\nEnd.\n" in text
    assert documents.main(["--check", str(page)]) == 0


@pytest.mark.process
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<!-- output: false -->\n```console\n```\n", "exit code 1, not 0"),
        ("<!-- executed -->\n```python\nraise SystemExit(4)\n```\n", "exit code 4, not 0"),
        ("```console\n$ advisor\n```\n", "line 1: the console block has no mark"),
        ("<!-- output: true -->\n\nText.\n", "not followed by a fenced block"),
        ("<!-- recorded (a GPU) -->\n| a |\n", "names nothing after a colon"),
        ("<!-- generated: poems -->\n<!-- end -->\n", "nothing generates poems"),
        ("<!-- generated: python -->\n", "no <!-- end -->"),
        ("<!-- executed -->\n```sh\ntrue\n", "the block is not closed"),
    ],
)
def test_what_is_wrong_with_a_page_is_told(text, said, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(documents, "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    for way in ("--check", "--write"):
        assert documents.main([way, str(page)]) == 1
        error = capsys.readouterr().err
        assert error.startswith("page.md: ")
        assert said in error
        assert page.read_text(encoding="utf-8") == text


def test_a_long_command_is_broken_before_an_option():
    short = "advisor plan --gpus H100"
    assert documents.typed(short) == [f"$ {short}"]
    long = documents.typed("advisor plan " + " ".join(f"--option{number} value" for number in range(12)) + " | head")
    assert len(long) > 2
    assert max(map(len, long)) <= documents.WIDTH
    assert all(line.endswith(" \\") for line in long[:-1])
    assert all(line.startswith("    --option") for line in long[1:])
    assert long[-1].endswith("value | head")


@pytest.mark.process
def test_commands_see_no_settings_of_the_caller(tmp_path, monkeypatch):
    monkeypatch.setenv("ADVISOR_HOME", "/nowhere")
    shown = documents.run('echo "${ADVISOR_HOME-none} $HOME"; which advisor python', tmp_path)
    assert shown.split() == ["none", "~", "~/.bin/advisor", "~/.bin/python"]

"""What pages have in common: long work and its end, text shown as it is, modules that hide nobody's package."""

import importlib.machinery
import io
import json
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

import advisor
import app
from advisor import Progress, shipped_runs
from advisor.progress import Course
from advisor.render.figures.vega import axis, colour, layer, panel
from app.downloads import archive
from app.evidence_import import read_uploads
from app.figures import fitting
from app.jobs import Job
from app.plain_text import plain

pytestmark = pytest.mark.process

FOLDER = Path(app.__file__).parent
HANGS_S = 180
"""What takes longer than this hangs, however busy the machine is."""


def test_no_module_hides_a_package_from_what_streamlit_runs():
    elsewhere = [each for each in sys.path if Path(each or ".").resolve() != FOLDER]
    for path in FOLDER.glob("*.py"):
        if path.stem != "__init__":
            assert importlib.machinery.PathFinder.find_spec(path.stem, elsewhere) is None, path.name


def test_the_app_imports_no_page_of_another_package():
    for path in FOLDER.glob("*.py"):
        for line in path.read_text().splitlines():
            assert not line.strip().startswith(("import catalog", "from catalog", "from search", "from probes"))


@pytest.mark.parametrize("text", ["$1 and $2", "a_b_c *d* `e`", ":red[x] <b>", "[link](http://x)", "#1", "1. first"])
def test_plain_text_is_shown_as_it_is(text):
    escaped = plain(text)
    assert escaped.replace("\\", "") == text
    for i, letter in enumerate(escaped):
        if letter in "$_*`[]<>#:.()" and letter != " ":
            assert escaped[i - 1] == "\\"


def job_page(work):
    import streamlit as st

    from app.frame import guarded
    from app.jobs import answered

    with guarded():
        st.write(answered("job", work, work, doing="counting"))


def job(work):
    return AppTest.from_function(job_page, args=(work,), default_timeout=HANGS_S)


@pytest.mark.usefixtures("patient")
def test_quick_work_shows_no_progress():
    test = job(lambda _: "the answer").run()
    assert test.markdown[0].value == "the answer"
    assert not test.button


def test_long_work_says_how_far_it_is_and_can_be_awaited():
    counted, go_on, improved, end = (threading.Event() for _ in range(4))

    def work(tell):
        tell(Progress(share=0.25, doing="counting $ and *", best=""))
        counted.set()
        assert go_on.wait(HANGS_S)
        tell(Progress(share=0.5, doing="counting", best="i"))
        improved.set()
        assert end.wait(HANGS_S)
        return "the answer"

    test = job(work).run()
    assert [button.label for button in test.button] == ["Cancel"]
    assert counted.wait(HANGS_S)
    (bar,) = test.run().get("progress")
    assert bar.value == 25
    assert bar.text.startswith(r"**25%** counting \$ and \* …")
    assert not test.caption
    go_on.set()
    assert improved.wait(HANGS_S)
    assert "Best so far: i" in [element.value for element in test.run().caption]
    end.set()
    test.session_state["jobs"]["job"][0][1].thread.join(HANGS_S)
    assert "the answer" in [element.value for element in test.run().markdown]


def test_long_work_can_be_cancelled_and_begun_again():
    end = threading.Event()

    def work(_):
        assert end.wait(HANGS_S)
        return "the answer"

    test = job(work).run()
    test.button("job cancel").click().run()
    deadline = time.monotonic() + HANGS_S
    while not test.info and time.monotonic() < deadline:
        test.run()
    assert test.info[0].value == "Cancelled."
    assert "the answer" not in [element.value for element in test.markdown]
    test.button("job again").click().run()
    assert [button.label for button in test.button] == ["Cancel"]
    end.set()


def growing_page(work):
    import streamlit as st

    from app.frame import guarded
    from app.jobs import answered

    with guarded():
        answered("job", work, work, doing="counting", so_far=lambda answers: st.dataframe({"answer": list(answers)}))


def test_cancelled_work_keeps_what_it_had():
    improved, end = threading.Event(), threading.Event()

    def work(tell):
        tell(Progress(share=0.5, doing="counting", best="two of them", answers=("i", "j")))
        improved.set()
        assert end.wait(HANGS_S)

    test = AppTest.from_function(growing_page, args=(work,), default_timeout=HANGS_S).run()
    assert improved.wait(HANGS_S)
    assert list(test.run().dataframe[0].value["answer"]) == ["i", "j"]
    test.button("job cancel").click().run()
    test.run()
    end.set()
    assert test.info[0].value == "Cancelled at 50%. The best of what was tried: two of them."
    assert list(test.dataframe[0].value["answer"]) == ["i", "j"]


def test_answers_so_far_are_told_best_first():
    told = []
    course = Course(watch=told.append, steps=4)
    for loss, name in ((3.0, "c"), (1.0, "a"), (2.0, "b")):
        course.offer((loss,), f"fleet {name}", name)
    course.tell("counting", 2)
    assert (told[-1].share, told[-1].best, told[-1].answers) == (0.5, "fleet a", ("a", "b", "c"))


def test_long_titles_are_broken_and_legends_have_room():
    title = "requests that run at once on each replica of the fleet"
    spec = panel(
        layer(
            "line",
            [],
            x=axis("x", title),
            y=axis("y", title),
            color=colour("name", {"H200-SXM: 1 x TP1 PP1": "red"}),
        )
    )
    encoding = fitting(spec, 220)["layer"][0]["encoding"]
    assert " ".join(encoding["x"]["axis"]["title"]) == title
    assert max(map(len, encoding["y"]["axis"]["title"])) < 22
    assert "floor(width / 177)" in encoding["color"]["legend"]["columns"]["expr"]
    assert spec["layer"][0]["encoding"]["x"]["axis"]["title"] == title  # what is printed stays


def test_cancelled_work_ends_when_it_next_tells_its_progress():
    told, go_on = threading.Event(), threading.Event()

    def work(tell):
        told.set()
        assert go_on.wait(HANGS_S)
        tell(Progress(share=0.5, doing="counting"))
        return "the answer"

    cancelled = Job(work)
    cancelled.start()
    assert told.wait(HANGS_S)
    cancelled.cancel()
    assert cancelled.done, "the page need not wait"
    go_on.set()
    cancelled.thread.join(HANGS_S)
    assert not cancelled.thread.is_alive()
    assert (cancelled.result, cancelled.error, cancelled.progress) == (None, None, None)


@pytest.mark.usefixtures("patient")
def test_work_that_fails_is_told_as_a_fault():
    def work(_):
        raise ValueError("inside")

    test = job(work).run()
    assert "fault in advisor" in test.error[0].value
    assert not test.exception


def download_page():
    from app.downloads import downloads

    downloads("answer", body=dict, report=dict)


@pytest.mark.parametrize("drawable", [True, False])
def test_a_report_is_offered_where_figures_can_be_drawn(monkeypatch, drawable):
    monkeypatch.setattr("app.downloads.figures_can_be_drawn", lambda: drawable)
    offered = {each.label: each for each in AppTest.from_function(download_page).run().get("download_button")}
    assert {label: each.disabled for label, each in offered.items()} == {
        "JSON": False,
        "Report, HTML": not drawable,
        "Report, Markdown": not drawable,
    }
    assert ("pip install" in offered["Report, HTML"].help) is not drawable


def test_the_markdown_of_a_report_goes_with_its_figures():
    files = {"report.html": b"<html>", "report.md": b"# A", "one.png": b"png"}
    with zipfile.ZipFile(io.BytesIO(archive(files))) as made:
        assert {name: made.read(name) for name in made.namelist()} == {"report.md": b"# A", "one.png": b"png"}


def test_a_port_that_is_taken_is_one_line():
    import socket

    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        taken.listen()
        done = subprocess.run(
            [sys.executable, "-m", "advisor", "app", "--port", str(taken.getsockname()[1])],
            capture_output=True,
            text=True,
            check=False,
            timeout=HANGS_S,
            cwd=FOLDER.parent,
        )
    assert done.returncode == 2
    assert "address already in use" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "message"), [(["--port", "0"], "from 1 to"), (["--host", "no such"], "address of")]
)
def test_an_address_that_cannot_be_is_one_line(options, message):
    from typer.testing import CliRunner

    from advisor.cli import app as command

    done = CliRunner().invoke(command, ["app", *options])
    assert done.exit_code == 2
    assert message in done.output


def test_without_streamlit_the_extra_is_named(monkeypatch):
    from typer.testing import CliRunner

    from advisor.cli import app as command
    from advisor.cli.commands import app_command as browser

    monkeypatch.setattr(browser.importlib.util, "find_spec", lambda _: None)
    done = CliRunner().invoke(command, ["app"])
    assert done.exit_code == 2
    assert "pip install 'advisor[app]'" in done.output


def test_the_whole_app_opens_on_its_first_page_and_leaves_charts_for_later():
    test = AppTest.from_file(str(FOLDER / "main.py"), default_timeout=HANGS_S)
    test.query_params["gpu"] = "A101"
    test.run()
    assert not test.exception
    assert not test.error
    assert any(element.value.startswith("## Run ") for element in test.markdown)
    assert test.dataframe
    assert test.code
    assert not test.get("vega_lite_chart")
    assert len(test.run().get("vega_lite_chart")) == 3  # as the browser asks once it has shown this much
    assert ["A101" in each.value for each in test.warning] == [True]
    assert not test.run().warning


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [("recommendation", "concurrency", "inf"), ("recommendation", "count", "1e999"), ("capacity", "spares", "-inf"),
     ("recommendation", "tpot", "nan")],
)  # fmt: skip
def test_no_number_in_a_link_is_too_large(page, name, key, value):
    test = page(name, **{key: value})
    assert not test.exception
    assert not [error.value for error in test.error if "fault in advisor" in error.value]
    assert [warning.value.replace("\\", "") for warning in test.warning] == [
        f"The link sets {key} to {value}, which is not possible; the default is used."
    ]


def test_two_uploads_of_one_name_are_both_read():
    runs = [replace(run, run_id=f"mine-{number}") for number, run in enumerate(shipped_runs()[:2])]
    files = [("runs.jsonl", (json.dumps(asdict(run)) + "\n").encode()) for run in runs]
    assert [run.run_id for run in read_uploads(files, {}).runs] == ["mine-0", "mine-1"]
    with pytest.raises(advisor.InputError, match=r"^runs.jsonl"):
        read_uploads([("runs.jsonl", b"{"), ("runs.jsonl", b"{")], {})

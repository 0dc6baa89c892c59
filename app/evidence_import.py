"""Benchmarks of other programs, uploaded: what is recognised, what is left out and why, and where it is to count."""

from __future__ import annotations

import os
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import streamlit as st

import advisor
from advisor import ExtraRuns, read_import
from advisor.render.answers.measured import measured_columns
from advisor.render.menus import IMPORTED_SUFFIXES
from advisor.render.vocabulary import counted
from app import inputs
from app.evidence_runs import forget, keep, session_runs
from app.plain_text import plain
from app.tables import table
from app.uploads import file_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from advisor import Import

MOST_MB = 20
MOST_FILES = 20
SHOWN = 50
"""Rows left out that are listed."""
UNKNOWN = "from file"
NOTICE = "import notice"


def show() -> None:
    """Upload, look, and take over."""
    _tell_session()
    files = st.file_uploader(
        f"Results of vLLM's benchmarks, SGLang's, GuideLLM, AIPerf, GenAI-Perf, inference-perf, LLMPerf, trtllm-bench, or runs "
        f"of advisor (at most {MOST_FILES} files of {MOST_MB} MB; they are read, nothing in them is run)",
        type=[suffix.removeprefix(".") for suffix in IMPORTED_SUFFIXES],
        accept_multiple_files=True,
        max_upload_size=MOST_MB,
        key="benchmarks",
    )
    given = _facts()
    if not files:
        st.info(
            "Upload benchmark results, and answers will use them. State above what the files do not say (often the GPU and "
            "the parallelism).",
            icon=":material/upload_file:",
        )
        return
    if len(files) > MOST_FILES:
        raise advisor.InputError(f"{len(files)} files are too many at once; upload at most {MOST_FILES}")
    contents = [(file_name(file.name), file.getvalue()) for file in files]
    _tell_imported(read_uploads(contents, given))


def read_uploads(contents: Sequence[tuple[str, bytes]], facts: Mapping[str, Any]) -> Import:
    """Return what uploaded files hold, each with its name, read in a folder that is gone afterwards.

    Raises:
        InputError: a file cannot be read, a fact is missing, or two contradict each other.

    """
    with TemporaryDirectory() as folder:
        paths = []
        for number, (name, data) in enumerate(contents):  # two files may have one name
            paths.append(Path(folder, str(number), name))
            paths[-1].parent.mkdir()
            paths[-1].write_bytes(data)
        try:
            return read_import(paths, given=facts, catalogued=True)
        except advisor.InputError as error:
            raise advisor.InputError(re.sub(rf"{re.escape(folder)}/\d+/", "", str(error))) from error


def _facts() -> dict[str, Any]:
    """Return what the files do not say, by the names of ``advisor.import_runs``."""
    choices: dict[str, tuple[str, list[str]]] = {
        "gpu": ("GPU (--gpu)", list(inputs.gpus())),
        "model": ("Model (--model)", list(inputs.models())),
        "engine": ("Engine (--engine)", [engine.name for engine in advisor.all_engines()]),
    }
    counts = {
        "tp": "Tensor parallel (--tp)",
        "pp": "Pipeline parallel (--pp)",
        "dp": "Replicas (--dp)",
        "batch": "Batch (--batch)",
        "concurrency": "In flight (--concurrency)",
        "input_len": "Prompt, tokens (--input-len)",
        "output_len": "Answer, tokens (--output-len)",
    }
    facts: dict[str, Any] = {}
    with st.expander("What the files do not say", expanded=True), st.container(horizontal=True):
        for name, (label, known) in choices.items():
            facts[name] = st.selectbox(label, known, index=None, key=f"import_{name}", placeholder=UNKNOWN)
        for name, label in counts.items():
            facts[name] = st.number_input(
                label, min_value=1, value=None, step=1, key=f"import_{name}", placeholder=UNKNOWN
            )
        facts["rate"] = st.number_input(
            "Poisson, requests/s (--rate)", min_value=0.001, value=None, key="import_rate", placeholder=UNKNOWN
        )
        facts["role"] = st.selectbox(
            "Role",
            ("fit", "validate"),
            key="import_role",
            help="fit: answers use them; validate: they judge the fit.",
        )
    return {name: value for name, value in facts.items() if value is not None}


def _tell_imported(imported: Import) -> None:
    if imported.new:
        st.subheader(f"{counted(len(imported.new), 'new run')}")
        table(measured_columns(imported.new))
        left, right = st.columns(2)
        left.button(
            "Use in this session",
            key="use",
            type="primary",
            icon=":material/science:",
            on_click=_use,
            args=(imported,),
            help="Answers of this session use them, until it ends.",
            width="stretch",
        )
        right.button(
            "Keep for every later answer",
            key="store",
            icon=":material/save:",
            on_click=_store,
            args=(imported,),
            width="stretch",
            disabled=not may_keep(),
            help=f"Adds them to {imported.store}, as advisor import does."
            if may_keep()
            else "This app is shared: only its owner keeps runs, with advisor import.",
        )
    elif not imported.runs:
        st.error(plain(imported.why_empty), icon=":material/error:")
    if imported.known:
        st.info(f"Already kept: {counted(len(imported.known), 'run')}.", icon=":material/inventory:")
    if imported.left_out:
        with st.expander(
            f"{len(imported.left_out)} left out, and why", icon=":material/playlist_remove:", expanded=True
        ):
            lines = [f"- {plain(str(line))}" for line in imported.left_out[:SHOWN]]
            rest = len(imported.left_out) - len(lines)
            st.markdown("\n".join([*lines, *([f"- and {rest} more"] if rest else [])]))


def _use(imported: Import) -> None:
    keep(ExtraRuns(imported.new))


def may_keep() -> bool:
    """Return whether visitors may add to the owner's runs: where none but the owner comes, or the owner allows it."""
    return os.environ.get("ADVISOR_APP_SHARED") != "1" or os.environ.get("ADVISOR_APP_KEEP_RUNS") == "1"


def _store(imported: Import) -> None:
    """Keep them; what answers were worked out before is forgotten, for they stand on less."""
    if not may_keep():
        return
    try:
        imported.keep()
    except advisor.InputError as error:
        st.session_state[NOTICE] = ("error", str(error))
        return
    st.session_state[NOTICE] = (
        "success",
        f"{counted(len(imported.new), 'run')} added to {imported.store}",
    )
    st.cache_resource.clear()
    st.cache_data.clear()


def _tell_session() -> None:
    """Say what has become of a press on a button, and what this session stands on."""
    kind, text = st.session_state.pop(NOTICE, ("", ""))
    if kind:
        (st.error if kind == "error" else st.success)(plain(text), icon=":material/save:")
    own = session_runs()
    if not own:
        return
    left, right = st.columns([4, 1], vertical_alignment="center")
    left.success(
        f"Answers of this session also use {counted(len(own), 'imported run')}.",
        icon=":material/science:",
    )
    right.button("Forget them", key="forget", on_click=forget)

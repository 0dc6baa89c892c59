"""Tables of a page that can be edited: their rows, the address that holds them, and a YAML file in their place."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st
import yaml

from advisor import InputError
from app.links import LONGEST, packed, unpacked
from app.plain_text import plain
from app.uploads import file_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MOST_MB = 1
WHOLE = {"input_len", "output_len", "max_model_len", "count", "priority"}


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkedTables:
    """Tables with which a page asks a question; a link and a YAML file hold the same."""

    parameter: str
    """Of the address, and in front of what a session keeps."""
    noun: str
    """What they describe, as messages call it."""
    too_long: str
    """What is said where no link holds them."""
    file: str
    """What takes such a file, for who uploads one."""
    parts: tuple[str, ...]
    """Keys of the tables."""
    start: Mapping[str, Any]
    """What they begin with; such tables leave the address as it is."""

    def base(self) -> tuple[Mapping[str, Any], str]:
        """Return what the tables begin with, and the end of their keys, which is another where they begin anew."""
        linked = st.query_params.get(self.parameter)
        anew = st.session_state.pop(self.anew, False)
        if anew:
            self.begin(self.start)
        elif self._key("base") not in st.session_state or (
            linked and linked != st.session_state.get(self._key("link"))
        ):
            self.begin(self._linked(linked))
        return st.session_state[self._key("base")], f"{self.parameter} {st.session_state[self._key('number')]}"

    @property
    def anew(self) -> str:
        """Return the key of the session which says that the tables are to begin with ``start``."""
        return self._key("anew")

    def begin(self, base: Mapping[str, Any]) -> None:
        """Let the tables begin with a question."""
        st.session_state[self._key("base")] = base
        st.session_state[self._key("number")] = st.session_state.get(self._key("number"), 0) + 1

    def write(self, stated: Mapping[str, Any]) -> None:
        """Write the question as it stands into the address."""
        text = packed(stated)
        st.session_state[self._key("stated")] = stated
        st.session_state[self._key("link")] = text if len(text) <= LONGEST else None
        if len(text) > LONGEST:
            st.caption(self.too_long)
        if len(text) > LONGEST or stated == dict(self.start):
            st.query_params.pop(self.parameter, None)
        else:
            st.query_params[self.parameter] = text

    def leave(self) -> None:
        """Take the question out of the address, where the page asks another; the tables begin with it when they are back."""
        st.query_params.pop(self.parameter, None)
        stated = st.session_state.pop(self._key("stated"), None)
        if stated is not None:
            self.begin(stated)

    def uploader(self) -> None:
        """Offer to upload a file in place of the tables, and say why the last one is none."""
        with st.popover(f"Upload a {self.parameter}.yaml", icon=":material/upload_file:"):
            st.file_uploader(
                f"{self.file} (YAML or JSON, at most {MOST_MB} MB; it is read, nothing in it is run)",
                type=["yaml", "yml", "json"],
                key=self._key("file"),
                max_upload_size=MOST_MB,
                on_change=self._uploaded,
            )
        refused = st.session_state.get(self._key("refused"))
        if refused:
            st.error(refused, icon=":material/error:")

    def read(self, data: bytes, name: str) -> Mapping[str, Any]:
        """Return a question from YAML or JSON.

        Raises:
            InputError: it is none; the message names the file.

        """
        try:
            text = data.decode()
            if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
                raise InputError(f"{name}: aliases (*name) are not read here; write each value where it stands")
            content = yaml.safe_load(text)
        except (UnicodeDecodeError, yaml.YAMLError, RecursionError, ValueError) as error:
            raise InputError(f"{name}: cannot be read as YAML: {' '.join(str(error).split()):.200}") from None
        return self._checked(content, name)

    def _checked(self, content: Any, name: str) -> Mapping[str, Any]:
        tables = [content.get(part) for part in self.parts] if isinstance(content, dict) else [None]
        if not all(isinstance(part, list) and all(isinstance(row, dict) for row in part) for part in tables):
            lists = "each a list of tables" if len(self.parts) > 1 else "a list of tables"
            raise InputError(f"{name}: it must have {' and '.join(self.parts)}, {lists}")
        return dict(content)

    def _linked(self, text: str | None) -> Mapping[str, Any]:
        if not text:
            return self.start
        try:
            return self._checked(json.loads(unpacked(text, self.noun)), "the link")
        except (InputError, ValueError) as error:
            st.session_state[self._key("refused")] = plain(str(error))
            return self.start

    def _uploaded(self) -> None:
        file = st.session_state[self._key("file")]
        st.session_state[self._key("refused")] = ""
        if file is None:
            return
        try:
            self.begin(self.read(file.getvalue(), file_name(file.name)))
        except InputError as error:
            st.session_state[self._key("refused")] = plain(str(error))

    def _key(self, part: str) -> str:
        return f"{self.parameter} {part}"


def table_of(rows: Sequence[Mapping[str, Any]], fields: Sequence[str]) -> pd.DataFrame:
    """Return rows as a table with those columns and whatever else a row has; a list becomes its members with commas between."""
    names = list(dict.fromkeys([*fields, *(name for row in rows for name in row)]))
    cells = {name: [_cell(row.get(name)) for row in rows] for name in names}
    return pd.DataFrame(cells, columns=names, dtype=object)


def _cell(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return value if value is None or isinstance(value, (str, int, float)) else str(value)


def rows_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table; empty cells and empty rows are left out.

    Raises:
        InputError: a curve is no list of numbers.

    """
    rows = []
    for record in frame.to_dict("records"):
        row = {str(name): _value(str(name), value) for name, value in record.items() if not _is_empty(value)}
        rows += [row] if row else []
    return rows


def _value(name: str, value: Any) -> Any:
    if name == "curve":
        try:
            return [float(part) for part in str(value).split(",") if part.strip()]
        except ValueError:
            raise InputError(
                f"curve is {value!r:.60}; it must be numbers with commas between, such as 1, 2, 4, 2"
            ) from None
    if name in WHOLE and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _is_empty(value: Any) -> bool:
    return value is None or value is pd.NA or value == "" or (isinstance(value, float) and math.isnan(value))

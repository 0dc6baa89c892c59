"""The script that Streamlit runs: the pages and what they have in common.

Streamlit puts this folder first on Python's path, so no module here is named like a package that somebody may have.
"""

import streamlit as st

from app.frame import framed
from app.pages import PAGES

st.set_page_config(
    page_title="advisor",
    layout="wide",
    menu_items={"Get help": None, "Report a bug": None, "About": None},
)
st.navigation(
    [
        st.Page(framed(page.module), title=page.title, url_path=page.path or None, default=not page.path)
        for page in PAGES
    ],
    position="top",
).run()

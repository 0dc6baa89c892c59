"""The script that Streamlit runs: four pages and what they have in common.

Streamlit puts this folder first on Python's path, so no module here is named like a package that somebody may have.
"""

import streamlit as st

from app.frame import framed

st.set_page_config(
    page_title="advisor",
    layout="wide",
    menu_items={"Get help": None, "Report a bug": None, "About": None},
)
st.navigation(
    [
        st.Page(framed("recommendation"), title="Recommend", url_path="recommend", default=True),
        st.Page(framed("exploration"), title="Explore", url_path="explore"),
        st.Page(framed("capacity"), title="Capacity", url_path="plan"),
        st.Page(framed("evidence"), title="Evidence", url_path="runs"),
    ],
    position="top",
).run()

"""Every kind of storage that needs no server."""

from __future__ import annotations

import pytest


@pytest.fixture(params=["memory", "sqlite", "journal"])
def storage(request, tmp_path):
    names = {"memory": None, "sqlite": f"sqlite:///{tmp_path}/studies.db", "journal": tmp_path / "studies.journal"}
    return names[request.param]

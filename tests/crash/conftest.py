"""What the crash tests share: a data root with two known good versions, and children that run on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.crashes import Child, CrashSite


@pytest.fixture
def site(tmp_path: Path) -> CrashSite:
    site = CrashSite.build(tmp_path)
    assert site.good[0] != site.good[1]
    return site


@pytest.fixture
def fork(site: CrashSite, tmp_path: Path) -> Callable[..., Child]:
    """Start a run in a child; `before` is called in the child first."""

    def start(*, before: Callable[[], None] | None = None) -> Child:
        return Child.start(site, outcome=tmp_path / "outcome.txt", before=before)

    return start

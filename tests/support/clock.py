"""Clock: a clock that jumps, for this process and for the files that it writes.

Time that is measured (`time.monotonic`) goes on as it does when somebody sets a clock.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from datetime import datetime, tzinfo
from pathlib import Path
from types import ModuleType
from typing import Any, Final

_PACKAGE: Final = __name__.partition(".")[0]
_Set = Callable[[ModuleType, str, Any], None]


class JumpingClock:
    """A clock ahead of the real one by `ahead_s` seconds, behind it where that is negative."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def now(self) -> float:
        """Seconds since 1970, as this clock has them."""
        return time.time() + self.ahead_s

    def stamp(self, path: Path) -> None:
        """Give a file the time of now, as if it had been written by this clock."""
        os.utime(path, (self.now(), self.now()))

    def install(self, replace: _Set) -> None:
        """Put this clock into every module of the package that is imported by now.

        Parameters
        ----------
        replace
            Sets an attribute of a module, and sets it back some day (`pytest.MonkeyPatch.setattr`).
        """
        moment, times = self._make_datetime(), self._make_time()
        for name, module in sorted(sys.modules.items()):
            if not name.startswith(f"{_PACKAGE}.") or name == __name__:
                continue
            if vars(module).get("datetime") is datetime:
                replace(module, "datetime", moment)
            if vars(module).get("time") is time:
                replace(module, "time", times)
            if "write_file" in vars(module):
                replace(module, "write_file", self._stamping(vars(module)["write_file"]))

    def _make_datetime(self) -> type[datetime]:
        clock = self

        class Shifted(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> Shifted:
                return cls.fromtimestamp(clock.now(), tz)

        return Shifted

    def _make_time(self) -> ModuleType:
        shifted = ModuleType("time")
        vars(shifted).update(vars(time))
        vars(shifted)["time"] = self.now
        return shifted

    def _stamping(self, write: Callable[[Path, bytes], None]) -> Callable[[Path, bytes], None]:
        def write_and_stamp(path: Path, data: bytes) -> None:
            write(path, data)
            self.stamp(path)

        return write_and_stamp

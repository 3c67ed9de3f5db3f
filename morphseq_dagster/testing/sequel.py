"""Sequel: a module for tests of pilot jobs that is forked, leaves traces of itself and ends as its request says.

`python -m morphseq_dagster.testing.sequel REQUEST.json`: the request has `root`, `name` and `how`, and each execution
adds a line to `{name}.ran`. What `then` names follows, and ends in the same way.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from morphseq_dagster.cluster.pilot.chaining import Begin, Follower

SEQUEL = "morphseq_dagster.testing.sequel"


def key_of(name: str) -> str:
    """Key of a request by its name."""
    return hashlib.sha256(name.encode()).hexdigest()


def prepare(arguments: list[str]) -> None:
    """Leave a line in `prepared`."""
    _append(Path(_read(arguments)["root"]) / "prepared", str(os.getpid()))


def main(arguments: list[str] | None = None) -> int | str:
    """Leave a line of what surrounds this, then end as told."""
    request = _read(sys.argv[1:] if arguments is None else arguments)
    root, name, how = Path(request["root"]), request["name"], request["how"]
    surroundings = [os.getpid(), os.getppid(), Path.cwd(), os.environ["SLURM_JOB_NAME"], len(sys.stdin.read())]
    _append(root / f"{name}.ran", " ".join(map(str, surroundings)))
    sys.stdout.write(f"words of {name}\n")
    if how == "raise":
        raise RuntimeError(f"told to raise: {name}")
    if how == "text":
        sys.exit("told to say so")
    if how.startswith("signal "):
        os.kill(os.getpid(), signal.Signals[how.removeprefix("signal ")])
    if how == "stubborn":
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if how in ("wait", "stubborn"):
        while not (root / "open").exists():
            time.sleep(0.02)
    return int(how) if how.isdigit() else 0


def follow(arguments: list[str], then: tuple[str, ...], *, run_id: str, begin: Begin) -> None:
    """Begin the first of some names; `taken` as the name says that somebody is at it."""
    request = _read(arguments)
    first, rest = then[0], then[1:]
    told = json.dumps({**request, "name": first, "run_id": run_id}).encode()
    follower = Follower(group=("step", first), key=key_of(first), request=told, then=rest)
    begin(follower, is_free=lambda: first != "taken")


def _read(arguments: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(arguments[0]).read_bytes())
    return found


def _append(path: Path, line: str) -> None:
    with path.open("a") as handle:
        handle.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())

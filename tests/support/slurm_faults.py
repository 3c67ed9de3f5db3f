"""Faults around the Slurm client: clients that are killed at a moment or at a step, outages at a step of the protocol.

Clients that are to die are forks of one process that has imported everything, so that thousands of them take minutes
instead of hours.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

from morphseq_dagster.cluster.attempt_folder import JobRoot
from morphseq_dagster.cluster.client import Client
from morphseq_dagster.cluster.commands import Scheduler
from morphseq_dagster.cluster.connection import make_transport
from morphseq_dagster.cluster.errors import UnreachableError
from morphseq_dagster.cluster.job import JobSpec
from morphseq_dagster.cluster.transports.protocol import Answer, Transport
from morphseq_dagster.settings.slurm import SlurmSettings
from tests.support.slurm_cluster import QUICK, LocalCluster

_STEPS: Final = frozenset(("os.mkdir", "os.rename", "os.symlink", "os.remove", "subprocess.Popen"))
"""What a client does to the world, as the interpreter's audit names it; making a file comes to these."""


class DoomedClients:
    """Clients in processes of their own, each of which is killed with SIGKILL.

    Parameters
    ----------
    root
        Folder of a bench.
    settings
        Of the cluster; each client has a way there of its own.
    """

    def __init__(self, root: Path, *, settings: SlurmSettings) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-m", __name__, str(root), settings.model_dump_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        """Do nothing."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process that forks them."""
        self._server.communicate()

    def kill_after(self, specs: Sequence[JobSpec], *, delay_s: float, with_command: bool = False) -> None:
        """Let a client ensure jobs, and kill it some time later; if told, with the command that it waits for."""
        self._ask(specs, "time", delay_s, with_command)

    def kill_at(self, specs: Sequence[JobSpec], *, step: int) -> bool:
        """Let a client ensure jobs, and kill it just before it acts for the nth time; False when it ended before."""
        return self._ask(specs, "step", step, False) == "killed"

    def kill_at_the_end(self, specs: Sequence[JobSpec]) -> float:
        """Let a client ensure jobs, kill it while it would wait for them; return the seconds that it took."""
        return float(self._ask(specs, "end", 0, False))

    def _ask(self, specs: Sequence[JobSpec], how: str, value: float, flag: bool) -> str:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(f"{pickle.dumps((list(specs), how, value, flag)).hex()}\n")
        self._server.stdin.flush()
        told = self._server.stdout.readline().strip()
        if not told or told.startswith("error"):
            raise RuntimeError(f"client that was to be killed: {told or 'its server ended'}")
        return told


def _serve(root: Path, settings: SlurmSettings) -> None:
    """Fork a client for each line of standard input, kill it, say what became of it."""
    make_transport(settings)  # imports what its kind needs; nothing is opened before its first use
    for line in sys.stdin:
        specs, how, value, with_command = pickle.loads(bytes.fromhex(line))
        reading, writing = os.pipe()
        began = time.monotonic()
        child = os.fork()
        if child == 0:
            try:
                os.close(reading)
                _be_client(root, specs, settings=settings, step=int(value) if how == "step" else 0)
                os.write(writing, b"done")
                os.close(writing)
                signal.pause()
            except BaseException:  # noqa: BLE001 - a fork must not go on as its parent
                traceback.print_exc()
                os._exit(1)
        os.close(writing)
        if how == "time":
            time.sleep(value)
            said = b""
        else:
            said = os.read(reading, 4)  # nothing when it was killed
        took = time.monotonic() - began
        commands = Path(f"/proc/{child}/task/{child}/children").read_text().split() if with_command else []
        os.kill(child, signal.SIGKILL)
        for command in commands:
            try:
                os.kill(int(command), signal.SIGKILL)
            except ProcessLookupError:
                continue
        _, status = os.waitpid(child, 0)
        os.close(reading)
        if os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
            print("error: it ended by itself", flush=True)
        else:
            print(took if how == "end" else "killed" if not said else "done", flush=True)


def _be_client(root: Path, specs: Sequence[JobSpec], *, settings: SlurmSettings, step: int) -> None:
    client = Client(Scheduler(make_transport(settings)), root=JobRoot(root / "jobs"), timeouts=QUICK)
    if step:
        count = 0

        def die_at_step(event: str, values: tuple[object, ...]) -> None:
            nonlocal count
            flags = values[2] if event == "open" else 0
            if event in _STEPS or (isinstance(flags, int) and flags & os.O_CREAT):
                count += 1
                if count == step:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(die_at_step)
    for spec in specs:
        client.ensure(spec, done=(root / f"{spec.group[1]}.result").is_file, run_id=str(os.getpid()))


@dataclass
class Outage:
    """A daemon that goes away once, and comes back by itself.

    Parameters
    ----------
    cluster, daemon
        Whose daemon, and which.
    away_s
        For how long.
    """

    cluster: LocalCluster
    daemon: str
    away_s: float
    _timer: threading.Timer | None = None

    def begin(self) -> None:
        """Stop the daemon; only the first call does."""
        if self._timer is None:
            self.cluster.stop(self.daemon)
            self._timer = threading.Timer(self.away_s, self.cluster.start, [self.daemon])
            self._timer.start()

    @property
    def begun(self) -> bool:
        """Whether the daemon went away at all."""
        return self._timer is not None

    def end(self) -> None:
        """Wait until the daemon is back; where it did not come back by itself this says why not."""
        if self._timer is not None:
            self._timer.join()
            self.cluster.start(self.daemon)


@dataclass
class Interrupted:
    """A transport on whose way something happens at the first use of a command.

    Parameters
    ----------
    transport
        The way.
    command
        The command's name.
    act
        What happens.
    when
        Before it; after it, its answer lost; or instead of it, as when the way there broke.
    """

    transport: Transport
    command: str
    act: Callable[[], None]
    when: Literal["before", "after", "instead"] = "before"
    name: str = "interrupted"
    _used: list[str] = field(default_factory=list)

    def run(self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"") -> Answer:
        """Run a command."""
        first = Path(argv[0]).name == self.command and not self._used
        if first:
            self._used.append(self.command)
        if first and self.when == "before":
            self.act()
        if first and self.when == "instead":
            self.act()
            raise _lost()
        answer = self.transport.run(argv, timeout_s=timeout_s, stdin=stdin)
        if first and self.when == "after":
            self.act()
            raise _lost()
        return answer

    def put(self, path: str, data: bytes) -> None:
        """Write a file."""
        self.transport.put(path, data)

    def get(self, path: str) -> bytes:
        """Read a file."""
        return self.transport.get(path)

    def close(self) -> None:
        """Let go of the way."""
        self.transport.close()


def _lost() -> UnreachableError:
    return UnreachableError(expected="an answer", found="none", where="interrupted transport", remedy="wait")


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), SlurmSettings.model_validate_json(sys.argv[2]))

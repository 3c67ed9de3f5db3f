"""Pilot agent: the program of a pilot job on its node; it takes requests one by one and works on several at once.

For each task it does what a job script does for a single job (`script.py`): claim, start record, log, signals, end
record and end mark. Beside that it keeps a time limit for each task and begins what follows on a task (`chaining.py`).
A command that is a module of this very Python is imported once, and each task is a fork of this process that calls its
`main`, which costs a hundredth of a start; any other command is executed. There is one thread, because it forks, and
signals are waited for instead of handled, so that none of two that come together is lost.

A module may have `prepare(arguments)`, called once before the first fork, and `follow(arguments, then, run_id=,
begin=)`, called after a `main` that returned 0 to begin the next request.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import importlib
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NoReturn

from morphseq_dagster.cluster.attempt_folder import PILOTS, Attempt, JobRoot
from morphseq_dagster.cluster.job import ATTEMPT
from morphseq_dagster.cluster.pilot.chaining import begin_follower, find_follower

_SIGNALS: Final = (signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD)
_LOOK_S: Final = 1.0
_KILLED: Final = 128
_OF_TERM: Final = (-signal.SIGTERM, _KILLED + signal.SIGTERM)
"""Codes of a process that a TERM ended, and of one that passes on that a TERM ended what it waited for."""
_APPEND: Final = os.O_WRONLY | os.O_CREAT | os.O_APPEND
_PR_SET_PDEATHSIG: Final = 1


@dataclass
class _Hand:
    """A task at work, and the signal that it was sent."""

    task: Attempt
    pid: int
    began: float
    sent: str = ""


class PilotAgent:
    """The work on one pilot job in one life of its job.

    Parameters
    ----------
    pilot
        Folder of the pilot job.
    workers
        Tasks at work at once.
    limit_s
        Limit of each, in seconds; 0 for none.
    overdue_s
        Seconds from the warning that a task is out of time to its end by TERM.
    """

    def __init__(self, pilot: Path, *, workers: int, limit_s: float, overdue_s: float = 60.0) -> None:
        self._root = JobRoot(pilot.parents[2])
        self._pilot = self._root.attempt((PILOTS,), key=pilot.parent.name, number=1)
        self._workers, self._limit_s, self._overdue_s = workers, limit_s, overdue_s
        self._job = os.environ["SLURM_JOB_ID"]
        self._node = os.environ.get("SLURMD_NODENAME") or os.uname().nodename
        self._restart = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
        self._gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        self._left = deque(self._pilot.tasks())
        self._hands: dict[int, _Hand] = {}
        self._stop = ""
        self._looked = time.monotonic()
        self._modules: dict[str, ModuleType] = {}
        # Nothing may be allocated from the library between fork and exec, hence it is opened here.
        self._libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def work(self) -> int:
        """Work on all tasks; the exit code of the job."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        while True:
            if self._reap():
                # Who ends an allocation signals one process after the other: ours follows within a moment.
                self._note_signal(signal.sigtimedwait((signal.SIGTERM,), _LOOK_S))
            while self._left and not self._stop and len(self._hands) < self._workers:
                with _surviving():
                    self._take(self._left.popleft())
            if not self._hands:
                break
            self._note_signal(signal.sigtimedwait(_SIGNALS, _LOOK_S))
            self._look()
        return _KILLED + signal.SIGTERM if self._stop == "TERM" else 0

    def _note_signal(self, received: signal.struct_siginfo | None) -> None:
        if received is not None and received.si_signo != signal.SIGCHLD and self._stop != "TERM":
            self._stop = signal.Signals(received.si_signo).name.removeprefix("SIG")

    def _take(self, task: Attempt) -> None:
        """Begin one task, unless it is over or belongs to another job."""
        if task.is_closed or task.cancel_requested or self._has_ended(task):
            return
        with contextlib.suppress(FileExistsError):
            task.path("claim").symlink_to(self._job)
        if task.owner() != self._job or task.is_closed:
            return
        if task.record("cancel") is not None:
            # It was cancelled before the claim was made, when there was no job to signal.
            self._write_end(task, code=_KILLED + signal.SIGTERM, signal_name="TERM")
            return
        intent = task.intent
        started = {"node": self._node, "restart": self._restart, "gpus": self._gpus}
        self._write(task, "start", started)
        command = [str(part).replace(ATTEMPT, task.there) for part in intent.get("command", ())]
        module = self._import(command)
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._become_task(task, command=command, module=module, intent=intent, parent=parent)
        self._hands[pid] = _Hand(task, pid, time.monotonic())

    def _has_ended(self, task: Attempt) -> bool:
        """Whether a task ended by itself in an earlier life of the job; what TERM ended is done again."""
        end = task.record("end")
        return end is not None and end.get("signal") != "TERM"

    def _import(self, command: Sequence[str]) -> ModuleType | None:
        """Import the module that a command runs in this very Python; None for any other command."""
        name = module_of(command)
        if name is None:
            return None
        if name not in self._modules:
            try:
                module = self._modules[name] = importlib.import_module(name)
                if hasattr(module, "prepare"):
                    module.prepare(arguments_of(command))
            except Exception:  # noqa: BLE001 - each task fails in the same way and has it in its own log
                traceback.print_exc()
            gc.collect()
            gc.freeze()  # what all share stays shared
        return self._modules.get(name)

    def _become_task(
        self, task: Attempt, *, command: list[str], module: ModuleType | None, intent: dict[str, Any], parent: int
    ) -> NoReturn:
        """Be the process of one task, just forked."""
        code = _KILLED - 1
        try:
            self._settle_in(task, parent=parent)
            if module is None:
                _execute(command)
            code = _call(module, command)
            if code == 0 and intent.get("then") and hasattr(module, "follow"):
                self._go_on(task, module=module, command=command, then=tuple(intent["then"]))
        except BaseException:  # noqa: BLE001 - a forked process must never return into the loop of its parent
            traceback.print_exc()
        finally:
            with contextlib.suppress(BaseException):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _settle_in(self, task: Attempt, *, parent: int) -> None:
        """Set up what a job of its own would have: log, no input, folder, name, default signals."""
        if self._libc is not None:
            self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(_KILLED + signal.SIGKILL)
        empty, log = os.open(os.devnull, os.O_RDONLY), os.open(task.path("log.txt"), _APPEND, 0o666)
        for source, target in ((empty, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        os.chdir(task.folder)
        os.environ["SLURM_JOB_NAME"] = task.token
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def _go_on(self, task: Attempt, *, module: ModuleType, command: list[str], then: tuple[str, ...]) -> None:
        """Begin what follows on a task that is done; what cannot be begun is left to whoever waits."""
        if self._pilot.cancel_requested:
            return
        try:
            begin = partial(begin_follower, self._root, task)
            module.follow(arguments_of(command), then, run_id=task.run_id or "", begin=begin)
        except Exception:  # noqa: BLE001 - the task itself is done
            traceback.print_exc()

    def _reap(self) -> bool:
        """Take in the ends of tasks; whether one was ended by a TERM that was not ours.

        A follower is a task before its forerunner has ended for anybody else.
        """
        ended = False
        for hand in list(self._hands.values()):
            pid, status, used = os.wait4(hand.pid, os.WNOHANG)
            if pid == 0:
                continue
            del self._hands[hand.pid]
            code = os.waitstatus_to_exitcode(status)
            ended = ended or (code in _OF_TERM and not hand.sent)
            with _surviving():
                self._append_follower(hand.task)
            with _surviving():
                self._write_end(hand.task, code=code if code >= 0 else _KILLED - code, signal_name=hand.sent, used=used)
        return ended

    def _append_follower(self, task: Attempt) -> None:
        follower = find_follower(self._root, after=task)
        if follower is not None:
            self._pilot.add_task(follower)
            self._left.appendleft(follower)

    def _write_end(
        self, task: Attempt, *, code: int, signal_name: str = "", used: resource.struct_rusage | None = None
    ) -> None:
        signal_name = signal_name or ("TERM" if code == _KILLED + signal.SIGTERM else "")
        cpu = "" if used is None else f"0m{used.ru_utime:.3f}s 0m{used.ru_stime:.3f}s"
        values = {"rc": code, "signal": signal_name, "node": self._node, "restart": self._restart, "cpu": cpu}
        self._write(task, "end", values)
        mark = task.inbox / task.token
        mark.touch()
        if task.is_closed:
            mark.unlink(missing_ok=True)  # whoever closed it looked for the mark before it was there

    def _write(self, task: Attempt, name: str, values: dict[str, object]) -> None:
        """Write a record as a job's script does: whole, and not flushed, since a lost node loses the job as well."""
        temporary = task.path(f".{name}.{self._restart}")
        temporary.write_text(json.dumps({"job": self._job, **values, "t": time.time()}) + "\n")
        temporary.replace(task.path(f"{name}.json"))

    def _look(self) -> None:
        """Signal tasks when the allocation ends, when they are cancelled, and when their time is over."""
        now = time.monotonic()
        if not self._stop and now - self._looked < _LOOK_S:
            return
        self._looked = now
        for hand in self._hands.values():
            if self._stop:
                self._send(hand, self._stop)
            elif hand.task.cancel_requested:
                self._send(hand, "TERM")
            elif self._limit_s and now - hand.began >= self._limit_s:
                self._send(hand, "USR1")
                if now - hand.began >= self._limit_s + self._overdue_s:
                    os.kill(hand.pid, signal.SIGTERM)  # its end record still names the time limit

    def _send(self, hand: _Hand, name: str) -> None:
        if hand.sent not in (name, "TERM"):
            hand.sent = name
            os.kill(hand.pid, signal.Signals[f"SIG{name}"])


@contextlib.contextmanager
def _surviving() -> Iterator[None]:
    """Print trouble with one task's folder, or lack of processes, instead of ending all tasks at work."""
    try:
        yield
    except OSError:
        traceback.print_exc()


def module_of(command: Sequence[str]) -> str | None:
    """Name of the module that a command has this very Python run; None for any other command."""
    own = sys.orig_argv[0]
    if "-m" not in command or command[0] != own:
        return None
    at = command.index("-m")
    return command[at + 1] if at + 1 < len(command) and all(part.startswith("-") for part in command[1:at]) else None


def arguments_of(command: Sequence[str]) -> list[str]:
    """Arguments of the module that a command runs."""
    return list(command[command.index("-m") + 2 :])


def _execute(command: list[str]) -> NoReturn:
    """Become another program; its log names it where it is not there."""
    try:
        os.execvp(command[0], command)  # noqa: S606 - no shell is the point
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        raise


def _call(module: ModuleType, command: Sequence[str]) -> int:
    """Call a module's `main` as its own process would; its exit code."""
    sys.argv = [module.__file__ or module.__name__, *arguments_of(command)]
    try:
        code = module.main(arguments_of(command))
    except SystemExit as ended:
        code = ended.code
    except Exception:  # noqa: BLE001 - as Python itself does at the end of a program
        traceback.print_exc()
        return 1
    if isinstance(code, str):
        sys.stderr.write(f"{code}\n")
        return 1
    return 0 if code is None else int(code) & 0xFF


def main(arguments: Sequence[str] | None = None) -> int:
    """Work on one pilot job."""
    parser = argparse.ArgumentParser(prog="morphseq_dagster.cluster.pilot.agent", description=__doc__)
    parser.add_argument("pilot", type=Path)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--limit", type=int, default=0, help="seconds for each task; 0 for none")
    options = parser.parse_args(arguments)
    return PilotAgent(options.pilot, workers=options.workers, limit_s=options.limit).work()


if __name__ == "__main__":
    sys.exit(main())

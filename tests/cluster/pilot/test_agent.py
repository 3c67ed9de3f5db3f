"""The pilot agent alone, as a job would start it: no scheduler, real processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from morphseq_dagster.cluster.attempt_folder import Attempt, JobRoot
from morphseq_dagster.cluster.pilot.agent import arguments_of, module_of
from morphseq_dagster.testing.sequel import SEQUEL, key_of
from tests.support.slurm_bench import wait_for

FORKED = (sys.executable, "-P", "-u", "-m", SEQUEL, "{attempt}/request.json")
HASTY = """
import sys
from pathlib import Path
from morphseq_dagster.cluster.pilot.agent import PilotAgent
sys.exit(PilotAgent({0}).work())
"""


class Site:
    """A pilot job whose tasks are written, and its job."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.jobs = JobRoot(root / "jobs")
        self.pilot = self.jobs.attempt(("_packs",), key="b" * 32, number=1)
        self.jobs.begin(self.pilot)

    def attempt(self, name: str) -> Attempt:
        return self.jobs.attempt(("step", name), key=key_of(name), number=1)

    def add(self, name: str, how: str = "0", *, command: Sequence[str] = FORKED, then: Sequence[str] = ()) -> Attempt:
        attempt = self.attempt(name)
        self.jobs.begin(attempt)
        request = {"root": str(self.root), "name": name, "how": how}
        attempt.path("request.json").write_text(json.dumps(request))
        owner = {"host": "waiter", "pid": 4, "run_id": "run"}
        more = {"pack": self.pilot.token, "command": list(command), "resources": {"cpus": 2}, "then": list(then)}
        attempt.write("intent", t=time.time(), token=attempt.token, **owner, **more)
        return attempt

    def start(
        self, tasks: Sequence[Attempt], *, workers: int = 2, limit: float = 0, restart: int = 0, overdue: float = 60
    ) -> subprocess.Popen[str]:
        self.pilot.write_tasks(tasks)
        told = f"Path({str(self.pilot.folder)!r}), workers={workers}, limit_s={limit}, overdue_s={overdue}"
        variables = {
            "PATH": os.environ["PATH"],
            "SLURM_JOB_ID": "7",
            "SLURM_JOB_NAME": self.pilot.token,
            "SLURMD_NODENAME": "n1",
            "SLURM_RESTART_COUNT": str(restart),
        }
        command = [sys.executable, "-u", "-c", HASTY.format(told)]
        return subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def work(self, tasks: Sequence[Attempt], **more: int) -> int:
        child = self.start(tasks, **more)
        said, _ = child.communicate(timeout=180)
        assert said == "", "a task speaks into its own log"
        return child.returncode

    def traces(self, name: str) -> list[list[str]]:
        path = self.root / f"{name}.ran"
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def end_of(attempt: Attempt) -> tuple[int, str] | None:
    end = attempt.record("end")
    return None if end is None else (end["rc"], end["signal"])


def test_module_is_imported_once_and_every_task_has_a_process_of_its_own(site: Site) -> None:
    tasks = [site.add(f"m{number}") for number in range(5)]
    assert site.work(tasks, workers=2) == 0
    (prepared,) = (site.root / "prepared").read_text().split()
    seen = [site.traces(f"m{number}") for number in range(5)]
    assert [len(lines) for lines in seen] == [1] * 5
    assert len({line[0] for (line,) in seen}) == 5
    assert {line[1] for (line,) in seen} == {prepared}
    for number, attempt in enumerate(tasks):
        _, _, folder, name, heard = seen[number][0]
        assert (folder, name, heard) == (str(attempt.folder), attempt.token, "0")
        assert attempt.path("log.txt").read_text() == f"words of m{number}\n"
        assert (attempt.owner(), end_of(attempt)) == ("7", (0, ""))
        start = attempt.record("start") or {}
        assert (start["job"], start["node"], start["restart"]) == ("7", "n1", 0)
        assert (site.jobs.inbox / attempt.token).exists()


@pytest.mark.parametrize(
    ("how", "code", "told", "words"),
    [
        ("3", 3, "", ""),
        ("raise", 1, "", "RuntimeError: told to raise: m"),
        ("text", 1, "", "told to say so"),
        ("signal SIGSEGV", 139, "", ""),
        ("signal SIGKILL", 137, "", ""),
        ("signal SIGTERM", 143, "TERM", ""),
    ],
)
def test_end_of_a_task_is_what_its_own_process_would_have_ended_with(
    site: Site, how: str, code: int, told: str, words: str
) -> None:
    task, other = site.add("m", how), site.add("other")
    assert site.work([task, other], workers=1) == 0
    assert end_of(task) == (code, told)
    assert words in task.path("log.txt").read_text()
    assert end_of(other) == (0, ""), "the others go on"


def test_any_other_command_is_executed(site: Site) -> None:
    script = site.root / "script.sh"
    script.write_text(f"echo $PPID $SLURM_JOB_NAME >{site.root}/said; exit 5\n")
    task = site.add("m", command=("bash", str(script)))
    gone = site.add("gone", command=("/nowhere/program",))
    assert site.work([task, gone]) == 0
    assert (end_of(task), end_of(gone)) == ((5, ""), (127, ""))
    assert (site.root / "said").read_text().split()[1] == task.token
    assert "/nowhere/program" in gone.path("log.txt").read_text()


def test_module_that_cannot_be_imported_fails_each_task_in_its_own_words(site: Site) -> None:
    command = (sys.executable, "-P", "-m", "morphseq_dagster.no_such_module")
    tasks = [site.add(name, command=command) for name in ("a", "b")]
    child = site.start(tasks)
    said, _ = child.communicate(timeout=180)
    assert child.returncode == 0
    assert "no_such_module" in said, "and in the log of the pilot job"
    for task in tasks:
        assert end_of(task) == (1, "")
        assert "no_such_module" in task.path("log.txt").read_text()


@pytest.mark.parametrize(
    ("command", "module"),
    [
        ((sys.executable, "-m", "a.b", "x"), "a.b"),
        ((sys.executable, "-P", "-u", "-m", "a.b"), "a.b"),
        (("/other/python", "-m", "a.b"), None),
        ((sys.executable, "script.py", "-m", "a.b"), None),
        ((sys.executable, "-m"), None),
        (("bash", "x"), None),
        ((), None),
    ],
)
def test_only_a_module_of_this_very_python_is_forked(
    command: tuple[str, ...], module: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "orig_argv", [sys.executable])
    assert module_of(command) == module
    if module is not None:
        assert arguments_of(command) == (["x"] if command[-1] == "x" else [])


def test_each_task_is_taken_once_and_what_an_earlier_life_left_again(site: Site) -> None:
    tasks = [site.add(f"e{number}") for number in range(12)]
    tasks[3].write("closed", kind="done")
    tasks[4].write("cancel", t=0)
    tasks[5].write("end", job="7", rc=1, signal="", restart=0, t=0)
    tasks[6].write("end", job="7", rc=143, signal="TERM", restart=0, t=0)
    tasks[7].path("claim").symlink_to("7")
    tasks[8].path("claim").symlink_to("void")
    tasks[9].path("claim").symlink_to("6")
    assert site.work(tasks, workers=3, restart=1) == 0
    counts = [len(site.traces(f"e{number}")) for number in range(12)]
    assert counts == [1, 1, 1, 0, 0, 0, 1, 1, 0, 0, 1, 1]
    told = tasks[6].record("end") or {}
    assert (told["rc"], told["signal"], told["restart"]) == (0, "", 1)


def test_task_whose_folder_is_gone_or_cannot_be_written_takes_nobody_with_it(site: Site) -> None:
    tasks = [site.add(name) for name in ("gone", "full", "fine")]
    shutil.rmtree(tasks[0].folder)
    tasks[1].path(".end.0").mkdir()
    child = site.start(tasks, workers=1)
    said, _ = child.communicate(timeout=180)
    assert child.returncode == 0
    assert [end_of(task) for task in tasks] == [None, None, (0, "")]
    assert [len(site.traces(name)) for name in ("gone", "full", "fine")] == [0, 1, 1]
    assert said.count("Traceback") == 2


@pytest.mark.parametrize(("number", "code", "told"), [(signal.SIGTERM, 143, "TERM"), (signal.SIGUSR1, 0, "USR1")])
def test_signal_to_the_job_ends_what_is_in_hand_and_nothing_more_is_begun(
    site: Site, number: signal.Signals, code: int, told: str
) -> None:
    tasks = [site.add(f"m{position}", "wait") for position in range(4)]
    child = site.start(tasks, workers=2)
    wait_for(lambda: all(site.traces(name) for name in ("m0", "m1")))
    child.send_signal(number)
    child.communicate(timeout=180)
    assert child.returncode == code
    assert [end_of(task) for task in tasks] == [(128 + number, told)] * 2 + [None] * 2
    assert [task.owner() for task in tasks] == ["7", "7", None, None]


@pytest.mark.parametrize("heeding", [False, True], ids=["ended by the signal", "ends by itself"])
def test_task_that_is_told_of_the_end_of_the_allocation_first_makes_no_room(site: Site, heeding: bool) -> None:
    heed = site.root / "heed.sh"
    heed.write_text(f"trap 'kill $!; exit 143' TERM; sleep 300 & echo $$ >{site.root}/$1.ran; wait\n")
    # Whether this process comes to the second signal within the moment is the machine's to say: then it is tried again.
    for number in range(10):
        command = ("bash", str(heed), f"m{number}") if heeding else FORKED
        task, following = site.add(f"m{number}", "wait", command=command), f"next{number}"
        child = site.start([task, site.add(following)], workers=1)
        wait_for(lambda: bool(site.traces(f"m{number}")))  # noqa: B023 - called at once
        began = time.monotonic()
        os.kill(int(site.traces(f"m{number}")[0][0]), signal.SIGTERM)
        wait_for(lambda: end_of(task) is not None)  # noqa: B023
        child.send_signal(signal.SIGTERM)
        in_time = time.monotonic() - began < 0.9
        child.communicate(timeout=180)
        if in_time:
            assert (child.returncode, site.traces(following)) == (143, [])
            return
    pytest.fail("this machine never came to the second signal within a second")


def test_of_two_signals_that_come_together_the_stronger_is_heeded(site: Site) -> None:
    tasks = [site.add("m", "stubborn"), site.add("next")]
    child = site.start(tasks, workers=1)
    wait_for(lambda: bool(site.traces("m")))
    child.send_signal(signal.SIGSTOP)
    child.send_signal(signal.SIGUSR1)
    child.send_signal(signal.SIGTERM)
    child.send_signal(signal.SIGCONT)
    child.communicate(timeout=180)
    assert child.returncode == 143
    assert (end_of(tasks[0]), end_of(tasks[1])) == ((143, "TERM"), None)


def test_wish_to_cancel_ends_one_and_is_answered_where_it_came_before_the_claim(site: Site) -> None:
    tasks = [site.add("one", "wait"), site.add("two", "wait"), site.add("three")]
    child = site.start(tasks, workers=2)
    wait_for(lambda: all(site.traces(name) for name in ("one", "two")))
    tasks[0].write("cancel", t=0)
    wait_for(lambda: end_of(tasks[0]) is not None)
    assert end_of(tasks[0]) == (143, "TERM")
    wait_for(lambda: end_of(tasks[2]) is not None)
    assert end_of(tasks[1]) is None, "the other one goes on"
    (site.root / "open").touch()
    child.communicate(timeout=180)
    assert (child.returncode, end_of(tasks[1])) == (0, (0, ""))


def test_task_over_its_time_is_warned_and_one_that_does_not_listen_is_ended(site: Site) -> None:
    tasks = [site.add("warned", "wait"), site.add("deaf", "stubborn"), site.add("quick")]
    assert site.work(tasks, workers=2, limit=3, overdue=1) == 0
    assert end_of(tasks[0]) == (128 + signal.SIGUSR1, "USR1")
    assert end_of(tasks[1]) == (143, "USR1"), "it is the time that has ended it"
    assert end_of(tasks[2]) == (0, "")


def test_tasks_do_not_outlive_a_killed_agent(site: Site) -> None:
    tasks = [site.add("one", "wait"), site.add("two", "wait")]
    child = site.start(tasks)
    wait_for(lambda: all(site.traces(name) for name in ("one", "two")))
    child.kill()
    child.communicate()
    alive = [int(site.traces(name)[0][0]) for name in ("one", "two")]
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() and _state(pid) != "Z" for pid in alive))
    assert [end_of(task) for task in tasks] == [None, None]


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "Z"


# what follows


def test_what_follows_is_a_request_of_its_own_in_the_same_job(site: Site) -> None:
    first, other = site.add("first", then=["second", "third"]), site.add("other")
    first.write("adopted", t=0, host="later", pid=5, run_id="later")
    assert site.work([first, other], workers=1) == 0
    second, third = site.attempt("second"), site.attempt("third")
    assert [end_of(attempt) for attempt in (first, second, third, other)] == [(0, "")] * 4
    assert site.pilot.tasks() == [first, other, second, third]
    for attempt, rest in ((second, ["third"]), (third, [])):
        intent = attempt.record("intent") or {}
        assert (intent["run_id"], intent["host"], intent["pid"]) == ("later", "later", 5), "whose run it is now"
        assert json.loads(attempt.path("request.json").read_text())["run_id"] == "later"
        assert (intent["pack"], intent["then"]) == (site.pilot.token, rest)
        assert (attempt.owner(), attempt.pilot) == ("7", site.pilot)
    begun = [(attempt.record("start") or {})["t"] for attempt in (first, second, third, other)]
    assert begun == sorted(begun), "a chain goes on before the next one begins"
    assert (first.record("end") or {})["t"] > (second.record("intent") or {})["t"], "known before its forerunner ended"


def test_nothing_follows_on_a_failure_a_cancelled_pilot_job_or_where_somebody_is_at_it(site: Site) -> None:
    failed, taken, begun = (
        site.add("failed", "1", then=["a"]),
        site.add("fine", then=["taken", "b"]),
        site.add("also", then=["c"]),
    )
    elsewhere = site.add("c")
    assert site.work([failed, taken, begun], workers=1) == 0
    assert [site.traces(name) for name in ("a", "taken", "b", "c")] == [[]] * 4
    given_up = site.attempt("taken")
    assert ((given_up.record("closed") or {})["kind"], given_up.owner()) == ("void", "void")
    assert not elsewhere.is_closed
    site.pilot.write("cancel", t=0)
    late = site.add("late", then=["d"])
    assert site.work([late], workers=1) == 0
    assert (end_of(late), site.traces("d")) == ((0, ""), [])


def test_chain_of_an_earlier_life_goes_on_where_it_was(site: Site) -> None:
    first = site.add("first", then=["second"])
    assert site.work([first]) == 0
    second = site.attempt("second")
    second.write("end", job="7", rc=143, signal="TERM", restart=0, t=0)
    tasks = site.pilot.tasks()
    assert site.work(tasks, restart=1) == 0
    assert (len(site.traces("first")), len(site.traces("second"))) == (1, 2)


def test_line_that_is_being_written_is_no_task_yet(site: Site) -> None:
    task = site.add("m")
    site.pilot.write_tasks([task])
    with site.pilot.path("members").open("a") as handle:
        handle.write("ms.0123")
    assert site.pilot.tasks() == [task]

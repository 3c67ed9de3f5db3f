"""Folders as locks: one maker per attempt, one winner per claim, one verdict."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from morphseq_dagster.cluster.attempt_folder import VOID, Attempt, JobRoot

KEY = "ab" * 32
GROUP = ("step", "20240418")
RACERS = 12


def begin(root: JobRoot, number: int = 1) -> Attempt:
    attempt = root.attempt(GROUP, key=KEY, number=number)
    assert root.begin(attempt)
    return attempt


def race(code: str, *arguments: object) -> list[str]:
    """Run the same code in several processes that start together; what each printed."""
    start = f"{time.time() + 1.0}"
    command = [sys.executable, "-c", f"import sys, time\ntime.sleep(max(0, {start} - time.time()))\n{code}"]
    children = [
        subprocess.Popen([*command, *map(str, arguments)], stdout=subprocess.PIPE, text=True) for _ in range(RACERS)
    ]
    return [child.communicate()[0].strip() for child in children]


def test_one_of_many_processes_makes_an_attempt(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\nfrom morphseq_dagster.cluster.attempt_folder import JobRoot\n"
        "r = JobRoot(Path(sys.argv[1]))\n"
        f"print(r.begin(r.attempt({GROUP!r}, key={KEY!r}, number=1)))"
    )
    assert sorted(race(code, tmp_path / "jobs")) == ["False"] * (RACERS - 1) + ["True"]


def test_one_of_many_clients_and_jobs_wins_the_claim(tmp_path: Path) -> None:
    attempt = begin(JobRoot(tmp_path))
    code = (
        "import os\n"
        "from pathlib import Path\nfrom morphseq_dagster.cluster.attempt_folder import JobRoot\n"
        f"a = JobRoot(Path(sys.argv[1])).attempt({GROUP!r}, key={KEY!r}, number=1)\n"
        "if os.getpid() % 2:\n    print(a.give_up())\n"
        "else:\n"
        "    os.system(f'cd {a.folder} && ln -s -n -- {os.getpid()} claim 2>/dev/null')\n"
        "    print(os.readlink(a.folder / 'claim') == str(os.getpid()))"
    )
    said = race(code, tmp_path)
    owner = attempt.owner()
    assert owner is not None
    # Clients are of one mind: all that gave up together see it given up.
    assert said.count("True") == (1 if owner != VOID else sum(text == "True" for text in said))
    assert (owner == VOID) == attempt.give_up()


def test_claim_of_a_job_cannot_be_given_up_and_tells_the_number(tmp_path: Path) -> None:
    attempt = begin(JobRoot(tmp_path))
    assert attempt.job is None
    (attempt.folder / "claim").symlink_to("4711")
    assert not attempt.give_up()
    assert attempt.job == "4711"


def test_given_up_attempt_has_no_job(tmp_path: Path) -> None:
    attempt = begin(JobRoot(tmp_path))
    assert attempt.give_up()
    assert attempt.give_up()
    assert (attempt.owner(), attempt.job) == (VOID, None)


def test_first_verdict_stands_and_takes_the_mark_away(tmp_path: Path) -> None:
    attempt = begin(JobRoot(tmp_path))
    (attempt.inbox / attempt.token).touch()
    attempt.close(kind="done", job="1")
    attempt.close(kind="failed", job="1")
    assert (attempt.record("closed") or {})["kind"] == "done"
    assert list(attempt.inbox.iterdir()) == []


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", "\xff"])
def test_half_a_record_is_none(tmp_path: Path, text: str) -> None:
    attempt = begin(JobRoot(tmp_path))
    attempt.path("end.json").write_bytes(text.encode("latin-1"))
    assert attempt.record("end") is None


def test_tokens_tell_request_root_and_attempt_apart(tmp_path: Path) -> None:
    first, second = JobRoot(tmp_path / "a"), JobRoot(tmp_path / "b")
    tokens = {
        root.attempt(GROUP, key=key, number=n).token
        for root in (first, second)
        for key in (KEY, "cd" * 32)
        for n in (1, 2)
    }
    assert len(tokens) == 8
    assert all(len(token) < 64 for token in tokens)


def test_token_follows_the_path_that_the_nodes_see(tmp_path: Path) -> None:
    here = JobRoot(tmp_path / "mount", there="/cluster/jobs")
    there = JobRoot(Path("/cluster/jobs"))
    ours, theirs = (root.attempt(GROUP, key=KEY, number=3) for root in (here, there))
    assert ours.token == theirs.token
    assert ours.there == str(theirs.folder)
    assert ours.folder == tmp_path / "mount" / "step" / "20240418" / KEY / "a3"


def test_attempts_are_listed_in_order_and_nothing_else_is(tmp_path: Path) -> None:
    root = JobRoot(tmp_path)
    for number in (10, 2, 1):
        begin(root, number)
    (tmp_path.joinpath(*GROUP, KEY) / "a03").mkdir()
    (tmp_path.joinpath(*GROUP, KEY) / "notes").mkdir()
    assert [attempt.number for attempt in root.attempts(GROUP, key=KEY)] == [1, 2, 10]


def test_open_attempts_are_found_by_group(tmp_path: Path) -> None:
    root = JobRoot(tmp_path)
    begin(root, 1).close(kind="failed")
    begin(root, 2)
    other = root.attempt(("other", "20240418"), key=KEY, number=1)
    root.begin(other)
    assert [(g, a.number) for g, _, a in root.open_attempts()] == [(("other", "20240418"), 1), (GROUP, 2)]
    assert [a.number for _, _, a in root.open_attempts(GROUP)] == [2]
    assert list(root.open_attempts(("step", "20250101"))) == []


def test_age_counts_from_the_intent_and_without_one_from_the_folder(tmp_path: Path) -> None:
    attempt = begin(JobRoot(tmp_path))
    os.utime(attempt.folder, (time.time() - 100, time.time() - 100))
    assert 99 < attempt.age_s < 110
    attempt.write("intent", t=time.time() - 10)
    assert 9 < attempt.age_s < 20

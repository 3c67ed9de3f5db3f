"""Checks of a cluster for `morphseq doctor`: login, commands, controller, accounting, clocks, disk, environment.

They see what can be seen from here and from the login node; what a compute node sees is `cluster_trial.py`. Nothing is
submitted; two small files are written below the data root and removed.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from morphseq_dagster.cli.checks import FEW_BYTES, SKEW_S, CheckResult, note, ok, problem
from morphseq_dagster.cluster.commands import Scheduler
from morphseq_dagster.cluster.connection import make_transport
from morphseq_dagster.cluster.errors import UnreachableError
from morphseq_dagster.cluster.transports.protocol import Answer, Transport
from morphseq_dagster.engine.executors.environment import (
    EnvironmentDescription,
    compare_environments,
    describe_environment,
    read_recorded,
    read_stored,
)
from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.engine.storage.atomic_io import make_folder, write_durably
from morphseq_dagster.errors import MorphseqError
from morphseq_dagster.settings.slurm import SlurmSettings

_COMMANDS: Final = ("sbatch", "squeue", "scancel", "sinfo", "sacct")
_DESCRIBE: Final = (
    "from morphseq_dagster.engine.executors.environment import describe_environment as d; print(d().model_dump_json())"
)
_PREAMBLE: Final = '. "$1" || exit 126; shift; exec "$@"'
_TIMEOUT_S: Final = 60.0
_SETTLE_S: Final = 10.0
_NAMED: Final = 5
_LOG_IN: Final = "log in by hand once (`ssh HOST true`); correct places.slurm.ssh"


def check_cluster(settings: SlurmSettings, *, layout: Layout) -> Iterator[CheckResult]:
    """Look at everything that needs no job."""
    transport = make_transport(settings)
    try:
        yield from _check_cluster(settings, layout=layout, transport=transport)
    except UnreachableError as error:
        yield problem(f"the login node does not answer: {error.found}", _LOG_IN)
    finally:
        transport.close()


def named_partitions(settings: SlurmSettings) -> dict[str, str]:
    """Partitions that the settings name, each with the first setting that does."""
    sections = {"resources": settings.resources}
    sections |= {f"steps.{name}": section for name, section in settings.steps.items()}
    for experiment, own in settings.experiments.items():
        sections[f"experiments.{experiment}.resources"] = own.resources
        sections |= {f"experiments.{experiment}.steps.{name}": section for name, section in own.steps.items()}
    found: dict[str, str] = {}
    for name, section in sections.items():
        for partition in section.partition.split(",") if section.partition else ():
            found.setdefault(partition, f"places.slurm.{name}.partition")
    return found


def expected_environment(settings: SlurmSettings, *, layout: Layout) -> EnvironmentDescription | None:
    """Environment that jobs must find; None when any will do, or none is recorded."""
    if settings.environment == "same":
        return describe_environment()
    recorded = read_recorded(layout) if settings.environment == "recorded" else None
    return None if recorded is None else read_stored(layout, digest=recorded.hash)


def judge_environment(
    found: EnvironmentDescription, *, expected: EnvironmentDescription | None, where: str, policy: str
) -> CheckResult:
    """Say whether an environment is the one that jobs must find."""
    if expected is None:
        text = f"environment {where}: {found.hash[:12]}, compared with none (places.slurm.environment = {policy})"
        return note(text, "morphseq environment --record (on the cluster)" if policy == "recorded" else "")
    differences = compare_environments(expected, found=found)
    if not differences:
        return ok(f"environment {where}: {found.hash[:12]}, as jobs expect")
    more = f", and {len(differences) - _NAMED} more" if len(differences) > _NAMED else ""
    text = f"environment {where} differs: {'; '.join(differences[:_NAMED])}{more}"
    return problem(text, "make install (of the same release there and here), then morphseq environment")


def _check_cluster(settings: SlurmSettings, *, layout: Layout, transport: Transport) -> Iterator[CheckResult]:
    versions = list(_check_commands(settings, transport=transport))
    yield from versions
    if any(finding.level == "problem" for finding in versions):
        return
    yield from _check_controller(settings, transport=transport)
    yield from _check_accounting(settings, transport=transport)
    yield from _check_clock(transport)
    there = settings.data_root or str(layout.data_root)
    shared = list(_check_shared(layout, there=there, transport=transport))
    yield from shared
    if all(finding.level != "problem" for finding in shared):
        yield from _check_space(there, transport=transport)
    yield _check_environment(settings, layout=layout, transport=transport)


def _check_commands(settings: SlurmSettings, *, transport: Transport) -> Iterator[CheckResult]:
    """Whether the login node lets us in and has the scheduler's commands, and of which version."""
    folder = settings.commands.rstrip("/") + "/" if settings.commands else ""
    versions: dict[str, str] = {}
    for name in _COMMANDS:
        try:
            answer = transport.run([f"{folder}{name}", "--version"], timeout_s=_TIMEOUT_S)
        except UnreachableError:
            raise
        except MorphseqError as error:
            remedy = f"{error.remedy}; places.slurm.commands names the folder of the commands"
            yield problem(f"{name}: {error.found} ({error.where})", remedy)
            return
        if answer.code != 0:
            yield problem(f"{name} --version: {_said(answer)}", "set places.slurm.commands to their folder")
            return
        versions[name] = answer.out.strip()
    found = sorted(set(versions.values()))
    if len(found) > 1:
        words = ", ".join(f"{name} {version}" for name, version in versions.items())
        yield note(f"commands of several versions: {words}", "set places.slurm.commands to one folder")
    else:
        yield ok(f"the cluster's commands answer ({transport.name}): {found[0]}")


def _check_controller(settings: SlurmSettings, *, transport: Transport) -> Iterator[CheckResult]:
    """Whether the controller answers, and has the partitions that the settings name."""
    folder = settings.commands.rstrip("/") + "/" if settings.commands else ""
    answer = transport.run([f"{folder}sinfo", "-h", "-o", "%P|%a|%l|%D"], timeout_s=_TIMEOUT_S)
    if answer.code != 0:
        yield problem(
            f"the controller does not answer: {_said(answer)}",
            "scontrol ping; jobs at work go on without it",
        )
        return
    rows = [line.strip().split("|") for line in answer.out.splitlines() if line.count("|") == 3]
    states = {row[0].rstrip("*"): row[1] for row in rows}
    limits = {row[0].rstrip("*"): row[2] for row in rows}
    named = named_partitions(settings)
    for partition, setting in named.items():
        if partition not in states:
            text = f"partition {partition} ({setting}) is none of {', '.join(sorted(states)) or 'this cluster'}"
            yield problem(text, f"correct {setting}; sinfo lists them")
        elif states[partition] != "up":
            yield note(f"partition {partition} is {states[partition]}: jobs wait", f"sinfo -p {partition}")
    if not named and not any(row[0].endswith("*") for row in rows):
        yield problem("the cluster has no default partition", "set places.slurm.resources.partition; sinfo")
    known = [name for name in states if name in named] or [row[0].rstrip("*") for row in rows if row[0].endswith("*")]
    if known:
        words = ", ".join(f"{name} (limit {limits[name]})" for name in known)
        yield ok(f"the controller answers; partitions in use: {words}")


def _check_accounting(settings: SlurmSettings, *, transport: Transport) -> Iterator[CheckResult]:
    scheduler = Scheduler(transport, folder=settings.commands, timeout_s=_TIMEOUT_S)
    try:
        reply = scheduler.account(names=["morphseq-doctor"], since_s=60)
    except UnreachableError as error:
        yield problem(f"accounting does not answer: {error.found}", "sacct; results need none of it")
        return
    if reply is None:
        text = "no accounting: ends are known from files and from what the controller remembers (MinJobAge)"
        yield note(text, "nothing need be done; `scontrol show config | grep MinJobAge`")
    else:
        yield ok("accounting answers")


def _check_clock(transport: Transport) -> Iterator[CheckResult]:
    before = time.time()
    answer = transport.run(["date", "+%s.%N"], timeout_s=_TIMEOUT_S)
    after = time.time()
    try:
        there = float(answer.out)
    except ValueError:
        yield note(f"the clock there cannot be read: {_said(answer)}", "date (on the login node)")
        return
    # The answer was written at some time between question and arrival.
    skew = min(0.0, there - before) + max(0.0, there - after)
    yield judge_skew(skew, whose="the login node's clock")


def judge_skew(skew_s: float, *, whose: str) -> CheckResult:
    """Say whether a difference of clocks matters."""
    words = f"{whose} is {abs(skew_s):.1f} s {'ahead of' if skew_s > 0 else 'behind'} this host's"
    if abs(skew_s) > SKEW_S:
        return problem(words, "set both clocks (NTP); waiting times and time limits go wrong")
    return ok(words if skew_s else f"{whose} agrees with this host's")


def _check_shared(layout: Layout, *, there: str, transport: Transport) -> Iterator[CheckResult]:
    """Whether a file written here is seen there, and back."""
    token = secrets.token_hex(8)
    here, name = layout.private, f"doctor.{token}"
    outward, inward = f"{name}.out", f"{name}.back"
    base = f"{there.rstrip('/')}/{layout.relative(here)}"
    wrong = "set places.slurm.data_root to the same folder as the cluster sees it"
    try:
        make_folder(here)
        write_durably(here / outward, token.encode())
        if not _comes(lambda: _get(transport, f"{base}/{outward}") == token.encode()):
            yield problem(f"a file written in {layout.data_root} here is not in {there} there", wrong)
            return
        transport.put(f"{base}/{inward}", token.encode())
        if not _comes(lambda: _read(here / inward) == token.encode()):
            yield problem(f"a file written in {there} there is not in {layout.data_root} here", wrong)
            return
        yield ok(f"{there} there and {layout.data_root} here are one folder")
    except UnreachableError:
        raise
    except (MorphseqError, OSError) as error:
        yield problem(f"{there} cannot be written there: {error}", "see to its permissions and free space")
    finally:
        for path in (here / outward, here / inward):
            path.unlink(missing_ok=True)


def _check_space(there: str, *, transport: Transport) -> Iterator[CheckResult]:
    """Space of the disk there, and quotas where the host knows of any."""
    answer = transport.run(["df", "-P", "-k", there], timeout_s=_TIMEOUT_S)
    fields = answer.out.strip().splitlines()[-1].split() if answer.out.strip() else []
    if answer.code != 0 or len(fields) < 6 or not fields[3].isdigit():
        yield note(f"free space there is not known: {_said(answer)}", f"df -h {there} (there)")
    else:
        free = int(fields[3]) * 1024
        few, text = free < FEW_BYTES, f"{free / 2**30:.0f} GiB free there"
        yield CheckResult("problem" if few else "ok", text, f"df -h {there} (there); make room" if few else "")
    try:
        quota = transport.run(["quota", "-w"], timeout_s=_TIMEOUT_S)
    except UnreachableError:
        raise
    except MorphseqError:
        return  # no such program: this host keeps no quotas
    if re.search(r"\d\*", quota.out):
        yield problem(f"over a quota there: {_one_line(quota.out)}", "quota -s (there); make room")
    elif quota.out.strip():
        yield ok("no quota there is exceeded")


def _check_environment(settings: SlurmSettings, *, layout: Layout, transport: Transport) -> CheckResult:
    """Whether the Python of jobs can import this package on the login node, and which environment that is."""
    argv: Sequence[str] = (settings.python, "-E", "-P", "-c", _DESCRIBE)
    if settings.preamble is not None:
        argv = ("bash", "-c", _PREAMBLE, "bash", settings.preamble, *argv)
    remedy = "correct places.slurm.python (and preamble); on the cluster: make install"
    try:
        answer = transport.run(argv, timeout_s=2 * _TIMEOUT_S)
        expected = expected_environment(settings, layout=layout)
    except UnreachableError:
        raise
    except MorphseqError as error:
        return problem(f"{settings.python} on the login node: {error.found}", remedy)
    if answer.code != 0:
        return problem(f"{settings.python} there cannot import this package: {_said(answer)}", remedy)
    try:
        found = EnvironmentDescription.model_validate_json(answer.out.strip().splitlines()[-1])
    except (IndexError, ValidationError):
        return problem(f"{settings.python} there has another release: {_said(answer)}", remedy)
    return judge_environment(found, expected=expected, where="on the login node", policy=settings.environment)


def _comes(condition: Callable[[], bool]) -> bool:
    """Wait some seconds for what a network disk shows late."""
    deadline = time.monotonic() + _SETTLE_S
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


def _get(transport: Transport, path: str) -> bytes | None:
    with contextlib.suppress(FileNotFoundError):
        return transport.get(path)
    return None


def _read(path: Path) -> bytes | None:
    with contextlib.suppress(FileNotFoundError):
        return path.read_bytes()
    return None


def _said(answer: Answer) -> str:
    return _one_line(answer.err) or _one_line(answer.out) or f"code {answer.code}"


def _one_line(text: str) -> str:
    """Last lines of what was said, in one."""
    return "; ".join(line.strip() for line in text.strip().splitlines()[-3:])

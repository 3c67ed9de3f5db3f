"""Installation: web server, daemon and code server of a pipeline, as users start them.

It is started, stopped and asked by GraphQL, as the web page asks. It imports no Dagster; tests and benchmarks use it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

import morphseq_dagster
from morphseq_dagster.cluster.attempt_folder import Attempt, JobRoot
from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.settings.machine import PlacesSettings
from morphseq_dagster.testing.chain import TOY, write_words

_T = TypeVar("_T")
_NOTHING: Mapping[str, Any] = {}
_ENDS = ("SUCCESS", "FAILURE", "CANCELED")
_TEMPLATE = Path(morphseq_dagster.__file__).resolve().parent / "templates" / "dagster.yaml"
_CODE = """
from morphseq_dagster.build import build_definitions
from morphseq_dagster.settings.machine import load_settings
defs = build_definitions(load_settings(), pipeline="{pipeline}")
"""
_LAUNCH = """
mutation($params: ExecutionParams!) { launchRun(executionParams: $params) { __typename
  ... on LaunchRunSuccess { run { id } } ... on PythonError { message } } }"""
_TERMINATE = """
mutation($id: String!, $policy: TerminateRunPolicy) { terminateRun(runId: $id, terminatePolicy: $policy) { __typename
  ... on TerminateRunFailure { message } ... on PythonError { message } } }"""
_REGISTER = """
mutation($key: String!, $repository: RepositorySelector!) {
  addDynamicPartition(partitionsDefName: "experiment", partitionKey: $key, repositorySelector: $repository)
  { __typename } }"""
_RUN = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status tags { key value } } } }"
_EVENTS = """
query($id: ID!) { logsForRun(runId: $id) { ... on EventConnection { events { __typename
  ... on MessageEvent { message stepKey }
  ... on ExecutionStepFailureEvent { error { message } failureMetadata { description } }
  ... on MaterializationEvent { metadataEntries { label ... on TextMetadataEntry { text } } } } } } }"""


def shipped_settings() -> dict[str, Any]:
    """Take the template of dagster.yaml as it is."""
    values: dict[str, Any] = yaml.safe_load(_TEMPLATE.read_text())
    return values


def suspending_settings(*, poll_s: int = 2, max_workers: int = 4, max_concurrent_runs: int = 8) -> dict[str, Any]:
    """Take the template of dagster.yaml as somebody edits it who wants runs that suspend."""
    text = _TEMPLATE.read_text()
    head, mark, tail = text.partition("# Suspended runs:")
    section = re.sub(r"^# ?", "", mark + tail, flags=re.MULTILINE)
    values: dict[str, Any] = yaml.safe_load(head)
    values |= yaml.safe_load(section[section.index("run_launcher:") :])
    del values["concurrency"]["runs"]
    values["run_monitoring"] |= {"max_resume_run_attempts": 10000, "poll_interval_seconds": poll_s}
    values["run_launcher"]["config"]["max_workers"] = max_workers
    values["run_coordinator"]["config"] |= {"max_concurrent_runs": max_concurrent_runs, "dequeue_interval_seconds": 1}
    return values


@dataclass
class Installation:
    """One Dagster home, one data root, one page.

    Parameters
    ----------
    folder
        Folder for all of it.
    settings
        Content of dagster.yaml.
    places
        Where single steps run, and the cluster.
    place
        Where all others run.
    pipeline
        Name of the pipeline.
    """

    folder: Path
    settings: dict[str, Any]
    places: PlacesSettings
    place: str = "process"
    pipeline: str = TOY
    log: Path = field(init=False)
    url: str = field(init=False)
    environment: dict[str, str] = field(init=False)
    _server: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        """Write the files and choose a port."""
        self.home, self.data_root = self.folder / "home", self.folder / "root"
        self.home.mkdir(parents=True)
        self.data_root.mkdir()
        (self.home / "dagster.yaml").write_text(yaml.safe_dump(self.settings))
        (self.folder / "toy_code.py").write_text(_CODE.format(pipeline=self.pipeline))
        workspace = {"load_from": [{"python_file": {"relative_path": "toy_code.py", "location_name": "toy"}}]}
        (self.folder / "workspace.yaml").write_text(yaml.safe_dump(workspace))
        self.log = self.folder / "server.log"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self.environment = dict(
            os.environ,
            DAGSTER_HOME=str(self.home),
            MORPHSEQ_DATA_ROOT=str(self.data_root),
            MORPHSEQ_PLACE=self.place,
            MORPHSEQ_PLACES=self.places.model_dump_json(),
            MORPHSEQ_REGISTER_PARTITIONS="0",
        )

    def start(self) -> None:
        """Start web server, daemon and code server; returns when the page answers with the code loaded."""
        command = [sys.executable, "-m", "dagster", "dev", "-w", "workspace.yaml", "-h", "127.0.0.1"]
        with self.log.open("ab") as handle:
            # A shell's background process ignores SIGINT, to which Dagster maps SIGTERM: neither would stop it.
            self._server = subprocess.Popen(
                [*command, "-p", str(self._port)],
                cwd=self.folder,
                env=self.environment,
                stdout=handle,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
            )
        self.wait_for(self._answers, seconds=300, what="the web page")

    def stop(self, *, kill: bool = False) -> None:
        """Stop them as Ctrl-C does, or at once and without a word."""
        if self._server is None:
            return
        if kill:
            os.killpg(self._server.pid, signal.SIGKILL)
        os.killpg(self._server.pid, signal.SIGTERM)
        try:
            self._server.wait(timeout=40)
        except subprocess.TimeoutExpired:
            os.killpg(self._server.pid, signal.SIGKILL)
            self._server.wait()
        self._server = None

    @property
    def servers(self) -> list[int]:
        """Processes of web server, daemon and code server."""
        group = str(self._server.pid) if self._server is not None else ""
        return [pid for pid, stat in _processes() if stat.rpartition(")")[2].split()[3] == group]

    def ask(self, query: str, **variables: object) -> Any:  # noqa: ANN401 - whatever was asked for
        """Ask the web server."""
        data = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=180) as answer:
            found = json.load(answer)
        if found.get("errors"):
            raise RuntimeError(str(found["errors"]))
        return next(iter(found["data"].values()))

    def register(self, experiment: str) -> None:
        """Register an experiment."""
        repository = {"repositoryLocationName": "toy", "repositoryName": "__repository__"}
        self.ask(_REGISTER, key=experiment, repository=repository)

    def launch(self, experiment: str, *, steps: Sequence[str] = (), tags: dict[str, str] | None = None) -> str:
        """Launch a run of an experiment, as the web page does; return its number."""
        selection = {"assetSelection": [{"path": [step]} for step in steps]} if steps else {}
        return self._launch("pipeline", selection=selection, tags={"dagster/partition": experiment, **(tags or {})})

    def launch_job(self, job: str, *, config: dict[str, Any]) -> str:
        """Launch a run of a job of no partition, as the web page does; return its number."""
        return self._launch(job, config=config)

    def _launch(
        self,
        job: str,
        *,
        selection: Mapping[str, object] = _NOTHING,
        tags: Mapping[str, str] = _NOTHING,
        config: Mapping[str, object] = _NOTHING,
    ) -> str:
        place = {"repositoryLocationName": "toy", "repositoryName": "__repository__", "jobName": job}
        metadata = {"tags": [{"key": key, "value": value} for key, value in tags.items()]}
        params = {"selector": {**place, **selection}, "executionMetadata": metadata, "runConfigData": config}
        done = self.ask(_LAUNCH, params=params)
        if done["__typename"] != "LaunchRunSuccess":
            raise RuntimeError(str(done))
        return str(done["run"]["id"])

    def terminate(self, run_id: str, *, force: bool = False) -> str:
        """Terminate a run, as the web page does; return the kind of answer."""
        policy = "MARK_AS_CANCELED_IMMEDIATELY" if force else "SAFE_TERMINATE"
        return str(self.ask(_TERMINATE, id=run_id, policy=policy)["__typename"])

    def status(self, run_id: str) -> str:
        """Status of a run."""
        return str(self.ask(_RUN, id=run_id)["status"])

    def tag(self, run_id: str, name: str) -> str:
        """Value of a run's tag; empty when it has none."""
        return next((t["value"] for t in self.ask(_RUN, id=run_id)["tags"] if t["key"] == name), "")

    def events(self, run_id: str, *, kind: str = "") -> list[dict[str, Any]]:
        """Events of a run."""
        found = self.ask(_EVENTS, id=run_id)["events"]
        return [event for event in found if not kind or event["__typename"] == kind]

    def processes(self, run_id: str) -> list[int]:
        """Processes of this host that name a run in their arguments or environment."""
        return [pid for pid, _ in _processes() if pid != os.getpid() and _names(pid, run_id.encode())]

    def is_suspended(self, run_id: str) -> bool:
        """Whether a run has said that it waits for a job, and has no process any more."""
        return self.tag(run_id, "morphseq/parked").startswith("job ") and not self.processes(run_id)

    def add(self, experiment: str, *, word: str = "fish", slow_s: float = 0) -> str:
        """Add an experiment of one well, which takes a time and may be told to fail by its word."""
        layout = Layout(self.data_root)
        write_words(layout, experiment, words={"A01": word})
        recipe = layout.recipes(experiment)[1]
        recipe.parent.mkdir(parents=True, exist_ok=True)
        recipe.write_text(f"[letters]\nslow_s = {slow_s}\n")
        self.register(experiment)
        return experiment

    def attempts(self, experiment: str) -> list[Attempt]:
        """Every attempt at every request of an experiment."""
        root = JobRoot(Layout(self.data_root).jobs)
        keys = sorted(root.root.glob(f"*/{experiment}/*"))
        return [attempt for key in keys for attempt in root.attempts(key.parts[-3:-1], key=key.name)]

    def await_suspended(self, *runs: str, seconds: float = 240) -> None:
        """Wait until runs wait for their jobs without a process.

        Raises
        ------
        RuntimeError
            When one ends instead.
        """

        def suspended() -> bool:
            ended = [run for run in runs if self.status(run) in _ENDS]
            if ended:
                raise RuntimeError(f"ended, not suspended: {[e['message'] for e in self.events(ended[0])][-12:]}")
            return all(self.is_suspended(run) for run in runs)

        self.wait_for(suspended, seconds=seconds, what="runs to suspend")

    def await_ends(self, *runs: str, seconds: float = 240) -> list[str]:
        """Wait for the ends of runs; their statuses."""

        def ends() -> list[str]:
            found = [self.status(run) for run in runs]
            return found if all(status in _ENDS for status in found) else []

        return self.wait_for(ends, seconds=seconds, what="runs to end")

    def wait_for(self, condition: Callable[[], _T], *, seconds: float, what: str) -> _T:
        """Poll until the condition gives something.

        Raises
        ------
        TimeoutError
            With the end of the servers' log.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = condition()
            if found:
                return found
            time.sleep(0.2)
        tail = self.log.read_text("utf-8", "backslashreplace")[-6000:]
        raise TimeoutError(f"waited {seconds:.0f} s for {what}; the log ends:\n{tail}")

    def _answers(self) -> bool:
        query = "{ repositoriesOrError { ... on RepositoryConnection { nodes { name } } } }"
        try:
            return bool(self.ask(query).get("nodes"))  # none in the answer of a page whose code is not loaded yet
        except OSError:
            return False


def _processes() -> list[tuple[int, str]]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                found.append((int(folder.name), (folder / "stat").read_text()))
            except OSError:
                continue
    return found


def _names(pid: int, text: bytes) -> bool:
    folder = Path("/proc") / str(pid)
    try:
        return text in (folder / "cmdline").read_bytes() or text in (folder / "environ").read_bytes()
    except OSError:
        return False

"""What `make install` leaves behind, and that exported variables win over `.env`."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from dagster import DagsterInstance
from dotenv import dotenv_values

if TYPE_CHECKING:
    from collections.abc import Callable

REPOSITORY = Path(__file__).resolve().parent.parent
NAMES = ("DAGSTER_HOME", "MORPHSEQ_DATA_ROOT", "MORPHSEQ_REGISTER_PARTITIONS")

# Definitions that write down what they were given when they were loaded, as the project's own would see it.
REPORTER = """
import json, os, pathlib
import dagster

seen = {{name: os.environ.get(name) for name in {names!r}}}
temporary = pathlib.Path({output!r} + ".tmp")
temporary.write_text(json.dumps(seen))
temporary.replace({output!r})


@dagster.asset
def nothing():
    pass


defs = dagster.Definitions(assets=[nothing])
"""


def make_checkout(root: Path) -> Path:
    """A checkout as `make install` meets it: the script, the template, no `.env` yet."""
    (root / "scripts").mkdir(parents=True)
    shutil.copy(REPOSITORY / "scripts" / "environment.py", root / "scripts")
    shutil.copytree(REPOSITORY / "morphseq_dagster" / "templates", root / "morphseq_dagster" / "templates")
    return root


def environment_with(**exported: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in NAMES} | exported


def set_up(checkout: Path, **exported: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, checkout / "scripts" / "environment.py"],
        env=environment_with(**exported),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return make_checkout(tmp_path / "check out")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_checkout(tmp_path_factory.mktemp("installed") / "check out")
    done = set_up(root)
    assert done.returncode == 0, done.stderr
    return root


def test_env_file_names_folders_of_the_checkout_and_they_exist(installed: Path) -> None:
    assert dotenv_values(installed / ".env") == {
        "DAGSTER_HOME": str(installed / ".dagster_home"),
        "MORPHSEQ_DATA_ROOT": str(installed / "data_root"),
        "MORPHSEQ_REGISTER_PARTITIONS": "1",
    }
    assert (installed / "data_root").is_dir()


def test_shipped_dagster_yaml_is_silent_and_serialises_the_gpu(installed: Path) -> None:
    home = installed / ".dagster_home"
    with DagsterInstance.from_config(str(home)) as instance:
        limits = {limit.name: limit.limit for limit in instance.event_log_storage.get_pool_limits()}
        assert limits == {"gpu": 1}
        assert not instance.telemetry_enabled
        assert not instance.nux_enabled
        assert instance.run_monitoring_enabled
        queue = instance.get_concurrency_config().run_queue_config
        assert queue is not None
        assert queue.max_concurrent_runs == 2
    # Off unless it is written down, whatever the other keys of its section say.
    assert yaml.safe_load((home / "dagster.yaml").read_text())["run_monitoring"]["free_slots_after_run_end_seconds"]


def test_what_the_user_wrote_is_not_written_over(checkout: Path) -> None:
    env = f"DAGSTER_HOME={checkout}/mine\nMORPHSEQ_DATA_ROOT={checkout}/data\nLAB=two words\n"
    (checkout / ".env").write_text(env)
    (checkout / "mine").mkdir()
    (checkout / "mine" / "dagster.yaml").write_text("telemetry: {enabled: true}\n")

    done = set_up(checkout)

    assert done.returncode == 0, done.stderr
    assert (checkout / ".env").read_text() == env
    assert (checkout / "mine" / "dagster.yaml").read_text() == "telemetry: {enabled: true}\n"
    assert (checkout / "data").is_dir()


def test_exported_folders_are_the_ones_that_are_made(checkout: Path, tmp_path: Path) -> None:
    done = set_up(checkout, DAGSTER_HOME=str(tmp_path / "home"), MORPHSEQ_DATA_ROOT=str(tmp_path / "data"))

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "home" / "dagster.yaml").is_file()
    assert (tmp_path / "data").is_dir()
    assert not (checkout / "data_root").exists()
    assert not (checkout / ".dagster_home").exists()


def test_relative_dagster_home_is_refused_by_name(checkout: Path) -> None:
    done = set_up(checkout, DAGSTER_HOME="somewhere")

    assert done.returncode == 1
    assert "DAGSTER_HOME=somewhere" in done.stderr
    assert not (checkout / "somewhere").exists()


def run_dagster(checkout: Path, environment: dict[str, str], *arguments: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "dagster", *arguments, "-f", "reporter.py"],
        cwd=checkout,
        env=environment,
        capture_output=True,
        check=True,
    )


def materialize(checkout: Path, environment: dict[str, str]) -> None:
    run_dagster(checkout, environment, "asset", "materialize", "--select", "nothing")


def validate(checkout: Path, environment: dict[str, str]) -> None:
    run_dagster(checkout, environment, "definitions", "validate")


def develop(checkout: Path, environment: dict[str, str]) -> None:
    """Run `dagster dev` until its code server has loaded the definitions, then end the whole family."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "dagster", "dev", "-f", "reporter.py", "--port", port]
    with (checkout / "dev.log").open("w") as log:
        server = subprocess.Popen(
            command, cwd=checkout, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            for _ in range(1200):
                if (checkout / "seen.json").exists() or server.poll() is not None:
                    break
                time.sleep(0.1)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()


@pytest.mark.parametrize("program", [materialize, validate, develop])
@pytest.mark.parametrize("export", [False, True], ids=["env file alone", "exported"])
def test_dagster_prefers_what_is_exported_to_the_env_file(
    installed: Path, tmp_path: Path, program: Callable[[Path, dict[str, str]], None], export: bool
) -> None:
    output = installed / "seen.json"
    output.unlink(missing_ok=True)
    (installed / "reporter.py").write_text(REPORTER.format(names=NAMES, output=str(output)))
    expected = {
        "DAGSTER_HOME": str(installed / ".dagster_home"),
        "MORPHSEQ_DATA_ROOT": str(installed / "data_root"),
        "MORPHSEQ_REGISTER_PARTITIONS": "1",
    }
    if export:
        home = tmp_path / "other home"
        home.mkdir()
        shutil.copy(REPOSITORY / "morphseq_dagster" / "templates" / "dagster.yaml", home)
        expected = {
            "DAGSTER_HOME": str(home),
            "MORPHSEQ_DATA_ROOT": str(tmp_path / "other data"),
            "MORPHSEQ_REGISTER_PARTITIONS": "0",
        }

    program(installed, environment_with(**(expected if export else {})))

    assert json.loads(output.read_text()) == expected

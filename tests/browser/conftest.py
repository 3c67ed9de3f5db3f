"""A live server for the tests of the web page: webserver, daemon and code server as users start them."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
OPTIONS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1600,1000",
)


@dataclass(frozen=True)
class Live:
    """A running installation: its page, its data root and the environment of its processes."""

    url: str
    data_root: Path
    environment: dict[str, str]
    log: Path

    def dagster(self, *arguments: str) -> str:
        """Run Dagster's own command line against it."""
        command = [sys.executable, "-m", "dagster", *arguments]
        done = subprocess.run(
            command, cwd=PROJECT, env=self.environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def wait_for(self, condition: Callable[[], object], *, seconds: float, what: str) -> object:
        """Poll until the condition gives something; fail with the end of the server's log."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = condition()
            if found:
                return found
            time.sleep(0.5)
        pytest.fail(f"waited {seconds:.0f} s for {what}; the log ends:\n" + self.log.read_text()[-3000:])


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    home, root = tmp_path / "home", tmp_path / "root"
    home.mkdir()
    root.mkdir()
    shutil.copy(PROJECT / "morphseq_dagster" / "templates" / "dagster.yaml", home / "dagster.yaml")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = dict(
        os.environ,
        DAGSTER_HOME=str(home),
        MORPHSEQ_DATA_ROOT=str(root),
        MORPHSEQ_REGISTER_PARTITIONS="0",
        MORPHSEQ_REPORT_EVERY_S="5",
    )
    log = tmp_path / "server.log"
    command = [sys.executable, "-m", "dagster", "dev", "-w", "workspace.yaml", "-h", "127.0.0.1", "-p", str(port)]
    with log.open("wb") as handle:
        # A shell's background process ignores SIGINT, to which Dagster maps SIGTERM: neither would stop it.
        server = subprocess.Popen(
            command,
            cwd=PROJECT,
            env=environment,
            stdout=handle,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
        )
        url = f"http://127.0.0.1:{port}"
        try:
            running = Live(url, root, environment, log)
            running.wait_for(lambda: _answers(url), seconds=300, what="the web page")
            yield running
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            try:
                server.wait(timeout=30)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[object]:
    for path in (CHROMIUM, DRIVER):
        if not path.exists():
            pytest.skip(f"{path} is not there: apt-get install chromium chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for option in (*OPTIONS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(option)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    try:
        yield driver
    finally:
        driver.quit()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/server_info", timeout=2):
            return True
    except OSError:
        return False

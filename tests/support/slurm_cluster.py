"""Slurm cluster of one machine for tests: started by a given script, ended with the process.

It listens on loopback only, and each process of a test run has its own, so that tests may stop single daemons.
"""

from __future__ import annotations

import atexit
import getpass
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

from morphseq_dagster.cluster.attempt_folder import JobRoot
from morphseq_dagster.cluster.client import Client
from morphseq_dagster.cluster.commands import Scheduler
from morphseq_dagster.cluster.job_handle import Timeouts
from morphseq_dagster.cluster.transports.local import LocalTransport
from morphseq_dagster.cluster.transports.protocol import Transport
from morphseq_dagster.cluster.transports.ssh import SshTransport
from morphseq_dagster.settings.slurm import SlurmSettings
from morphseq_dagster.settings.ssh_address import SshAddress

QUICK = Timeouts(grace_s=3.0, lost_s=5.0, settle_s=1.5, files_s=60.0)
"""Waiting times for tests."""
UNHURRIED = replace(QUICK, grace_s=600.0)
"""The same for tests in which nothing is given up: a busy machine may take seconds from the intent to the number."""
_FIRST_PORT, _STEP, _LAST_PORT = 17000, 40, 30000
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_STARTED: dict[tuple[str, ...], LocalCluster] = {}
_RESERVED: list[socket.socket] = []


@dataclass
class LocalCluster:
    """A running cluster.

    Parameters
    ----------
    script
        Program that starts and stops it.
    variables
        Its settings, as environment variables.
    """

    script: Path
    variables: dict[str, str] = field(default_factory=dict)

    def control(self, *arguments: str) -> str:
        """Call the script; return what it printed."""
        done = subprocess.run(
            [str(self.script), *arguments],
            env={**os.environ, **self.variables},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{self.script} {' '.join(arguments)}: {done.stderr[-6000:]}")
        return done.stdout

    def start(self, *components: str) -> None:
        """Start the named daemons; all when none is named."""
        self.control("start", *components)
        if not components:
            self._set_login_environment()

    def stop(self, *components: str) -> None:
        """Stop the named daemons."""
        self.control("stop", *components)

    def _set_login_environment(self) -> None:
        """Give the nodes the environment that `--export=NONE` asks for.

        Left to itself each job start runs a login shell of this machine's user, whose profile may take a second, or
        wait a minute for a lock that other starts hold.
        """
        conf = Path(self.environment["SLURM_CONF"])
        if "GetEnvTimeout" in conf.read_text():
            return
        user = getpass.getuser()
        values = {"HOME": str(Path.home()), "USER": user, "LOGNAME": user, "SHELL": "/bin/bash", "LANG": "C.UTF-8"}
        cache = conf.parent.parent / "state" / "env_cache" / user
        cache.parent.mkdir(exist_ok=True)
        cache.write_text("".join(f"{name}={value}\n" for name, value in (values | {"PATH": _PATH}).items()))
        with conf.open("a") as handle:
            handle.write("GetEnvTimeout=0\n")
        self.ask("scontrol", "reconfigure")

    @property
    def environment(self) -> dict[str, str]:
        """What clients need: the configuration, and the address of the SSH server."""
        lines = [line.removeprefix("export ") for line in self.control("env").splitlines()]
        return {name: value.strip("'") for name, _, value in (line.partition("=") for line in lines)}

    def address(self) -> SshAddress:
        """Address of its SSH server."""
        told = self.environment
        return SshAddress(
            host=told["LOCAL_SLURM_SSH_HOST"],
            port=int(told["LOCAL_SLURM_SSH_PORT"]),
            user=told["LOCAL_SLURM_SSH_USER"],
            key=told["LOCAL_SLURM_SSH_KEY"],
            known_hosts=told["LOCAL_SLURM_SSH_KNOWN_HOSTS"],
        )

    def client(self, root: Path, *, transport: Transport | None = None, timeouts: Timeouts = QUICK) -> Client:
        """Make a client of it."""
        return Client(Scheduler(transport or LocalTransport()), root=JobRoot(root), timeouts=timeouts)

    def settings(self, transport: str = "local", **more: object) -> SlurmSettings:
        """Make machine settings that name it, with short waiting times; clients find it by SLURM_CONF."""
        os.environ["SLURM_CONF"] = self.environment["SLURM_CONF"]
        times = {"grace_s": QUICK.grace_s, "lost_s": QUICK.lost_s, "settle_s": QUICK.settle_s}
        values: dict[str, object] = {"resources": {"memory": "600M", "time": 10}, "transport": transport, **times}
        # Who edits the checkout while tests run would see every job refused; the tests of the check ask for it.
        values["environment"] = "any"
        if transport != "local":
            address = self.address()
            values["ssh"] = {name: getattr(address, name) for name in ("host", "port", "user", "key", "known_hosts")}
        return SlurmSettings.model_validate(values | more)

    def ssh(self) -> SshTransport:
        """Make a transport over its SSH server."""
        return SshTransport(self.address())

    def ask(self, *argv: str) -> str:
        """Run one of the scheduler's commands."""
        environment = {**os.environ, "SLURM_CONF": self.environment["SLURM_CONF"]}
        return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False).stdout

    def abandoned(self) -> list[int]:
        """Processes that SSH sessions left on the login node when they ended, and `tail` of sessions still open."""
        ours = f"SLURM_CONF={self.environment['SLURM_CONF']}".encode()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                program = (folder / "cmdline").read_bytes().split(b"\0")[0]
                variables = (folder / "environ").read_bytes().split(b"\0")
            except OSError:  # it ended meanwhile
                continue
            in_session = any(variable.startswith(b"SSH_CONNECTION=") for variable in variables)
            if program in (b"sleep", b"tail") and ours in variables and in_session:
                found.append(int(folder.name))
        return found


def start_cluster(script: Path, **settings: str) -> LocalCluster:
    """Start a cluster, once per process and settings; it ends with the process.

    Parameters
    ----------
    script
        Program that starts and stops one.
    **settings
        Its settings in lower case: `accounting="0"`.
    """
    key = (str(script), *(f"{name}={value}" for name, value in sorted(settings.items())))
    if key not in _STARTED:
        home = Path(f"/tmp/mseq-slurm-{os.getpid()}-{len(_STARTED)}")
        variables = {f"LOCAL_SLURM_{name.upper()}": value for name, value in settings.items()}
        variables |= {"LOCAL_SLURM_HOME": str(home), "LOCAL_SLURM_PORT": str(_free_port())}
        variables.setdefault("LOCAL_SLURM_WAIT", "300")  # several start at once, on machines that are busy
        cluster = LocalCluster(script, variables)
        atexit.register(_purge, cluster, home)
        _start(cluster, home)
        _STARTED[key] = cluster
    return _STARTED[key]


def purge_started() -> None:
    """End all clusters of this process now: a process that takes long to exit may be killed before its clusters end."""
    while _STARTED:
        _, cluster = _STARTED.popitem()
        _purge(cluster, Path(cluster.variables["LOCAL_SLURM_HOME"]))


def _start(cluster: LocalCluster, home: Path) -> None:
    """Start a cluster; once more from nothing where its database cannot be made, as happens on a busy machine."""
    try:
        cluster.start()
    except RuntimeError as error:
        sys.stderr.write(f"{error}\nonce more\n")
        _purge(cluster, home)
        cluster.start()


def _purge(cluster: LocalCluster, home: Path) -> None:
    if home.exists():
        cluster.control("purge")
        shutil.rmtree(home, ignore_errors=True)


def _free_port() -> int:
    """First of a run of ports that nobody uses, and that is this process's until it ends."""
    count = (_LAST_PORT - _FIRST_PORT) // _STEP
    for number in range(count):
        first = _FIRST_PORT + (os.getpid() + len(_STARTED) * 7 + number) % count * _STEP
        if _reserve(first) and all(_is_free(first + offset) for offset in (0, 1, 2, *range(11, 21))):
            return first
    raise RuntimeError("no free ports")


def _reserve(first: int) -> bool:
    """Keep other processes that start clusters off a run of ports, before its daemons listen; leaves no file."""
    mark = socket.socket(socket.AF_UNIX)
    try:
        mark.bind(f"\0mseq-slurm-{first}")
    except OSError:
        mark.close()
        return False
    _RESERVED.append(mark)
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True

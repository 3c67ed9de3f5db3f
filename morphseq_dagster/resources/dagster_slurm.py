"""Transport `dagster_slurm`: a login described by dagster-slurm's connection object, a queue by its queue object.

The values of both objects are converted and used. dagster-slurm's connection pool, run loop and re-attachment are not:
they leave sessions behind, submit twice and decide outcomes (docs/slurm.md). Only this transport imports this module,
because dagster-slurm brings Dagster, which nothing else on the way to a job needs.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import lru_cache
from typing import Final, TypeVar

import dagster as dg

from morphseq_dagster.cluster.transports.ssh import SshTransport
from morphseq_dagster.errors import PermanentError
from morphseq_dagster.settings.job_values import Resources, refuse
from morphseq_dagster.settings.ssh_address import LASTING_OPTIONS, SshAddress

try:
    from dagster_slurm import SlurmQueueConfig, SlurmResource, SSHConnectionResource
except ModuleNotFoundError as missing:
    raise PermanentError(
        expected="the package dagster-slurm, which the transport dagster_slurm is made of",
        found=str(missing),
        where="places.slurm.transport",
        remedy="pip install 'morphseq-dagster[slurm]', or choose the transport ssh",
    ) from missing

_T = TypeVar("_T")
_STRICT: Final = (*LASTING_OPTIONS, "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes")
"""Options that go before those of a connection object: of options that are given twice, `ssh` takes the first."""
_ALONE: Final = ("-o", "ControlMaster=no", "-o", "ControlPath=none")
"""Options that keep the jump host's connection from outliving ours: dagster-slurm's would for ten minutes."""


class DagsterSlurmTransport(SshTransport):
    """Commands on the login node that a connection object of dagster-slurm describes.

    Parameters
    ----------
    connection
        The login, with strict host keys, by key, agent or SSH configuration.

    Raises
    ------
    PermanentError
        For a connection that asks for a password, a terminal or a command after login, or takes unknown host keys.
    """

    name = "dagster_slurm"

    def __init__(self, connection: SSHConnectionResource) -> None:
        super().__init__(_Login(connection))


class _Login:
    """A connection object as arguments of `ssh`."""

    def __init__(self, connection: SSHConnectionResource) -> None:
        jump = connection.jump_host
        refuse(
            [*_unfit(connection), *([] if jump is None else [f"jump host: {text}" for text in _unfit(jump)])],
            where="connection object of dagster-slurm",
        )
        self.host: str = connection.host
        self._connection = connection
        if jump is not None:
            alone = _copy(jump, extra_opts=[*_ALONE, *_STRICT, *jump.extra_opts])
            self._connection = _copy(connection, jump_host=alone)

    def options(self) -> list[str]:
        """Options of `ssh` for the login node, without the way there."""
        login = self._connection
        own = [*login.get_common_ssh_opts(), *login.get_auth_opts()]
        return [*_STRICT, *own, "-p", str(login.port), "-l", login.user]

    def route(self) -> list[str]:
        """Options of `ssh` for the way to the login node."""
        found: list[str] = self._connection.get_proxy_command_opts()
        return found


def connection_of(address: SshAddress) -> SSHConnectionResource:
    """Describe a login node by dagster-slurm's connection object.

    The jump host is logged in to with the same key and the same file of known host keys.

    Raises
    ------
    PermanentError
        For a missing user, which dagster-slurm never leaves to the SSH configuration, or a missing key file.
    """
    refuse(
        [f"no {name}" for name, value in (("user", address.user), ("user@ of jump", _jump_user(address))) if not value],
        where="places.slurm.ssh for the transport dagster_slurm",
    )
    jump = None
    if address.jump is not None:
        user, _, rest = address.jump.rpartition("@")
        host, _, port = rest.partition(":")
        jump = _describe(SshAddress(host=host, port=int(port or 22), user=user), like=address)
    return _describe(address, like=address, jump=jump)


def resources_of(queue: SlurmQueueConfig) -> Resources:
    """Take a queue object's values, its own defaults included, as resources of a job.

    Raises
    ------
    PermanentError
        Naming every value that is unsafe, or that this package's jobs cannot ask for.
    """
    refuse(
        [
            f"{name} = {value!r} has no counterpart here"
            for name, value, plain in (
                ("num_nodes", queue.num_nodes, 1),
                ("mem_per_cpu", queue.mem_per_cpu, None),
                ("reservation", queue.reservation, None),
                ("signal_before_timeout", queue.signal_before_timeout, None),
            )
            if value != plain
        ],
        where="queue object of dagster-slurm",
    )
    # Slurm reads a size without a unit as MiB.
    memory = f"{queue.mem}M" if queue.mem is not None and queue.mem.isdigit() else queue.mem
    return Resources(
        partition=queue.partition or None,
        account=queue.account,
        qos=queue.qos,
        cpus=queue.cpus,
        memory=memory,
        gpus=str(queue.gpus_per_node) if queue.gpus_per_node else None,
        time=queue.time_limit,
    )


@lru_cache
def load_resource(name: str) -> SlurmResource:
    """Load the cluster object of somebody's own project; environment variables that it names are read.

    Parameters
    ----------
    name
        `module:attribute` of a `SlurmResource`.

    Raises
    ------
    PermanentError
        When there is no such object.
    """
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise _no_resource(name, found=str(error)) from error
    if not isinstance(found, SlurmResource):
        raise _no_resource(name, found=f"an object of type {type(found).__name__}")
    try:
        with dg.build_resources({"cluster": found}) as resources:
            loaded: SlurmResource = resources.cluster
    except (dg.DagsterError, ValueError) as error:
        raise _no_resource(name, found=str(error)) from error
    return loaded


def _unfit(connection: SSHConnectionResource) -> list[str]:
    """Name what a connection asks for that commands with plain bytes and one shared login cannot have."""
    wrong = ["password (give a key, or use the agent)"] if connection.password is not None else []
    wrong += [] if connection.host_key_checking == "strict" else ["host_key_checking other than strict"]
    wrong += ["force_tty"] if connection.force_tty else []
    wrong += ["post_login_command"] if connection.post_login_command is not None else []
    # Also what dagster-slurm does not look at: values that `ssh` could read as options.
    SshAddress(host=connection.host, port=connection.port, user=connection.user, key=connection.key_path)
    return wrong


def _describe(
    address: SshAddress, *, like: SshAddress, jump: SSHConnectionResource | None = None
) -> SSHConnectionResource:
    return _make(
        lambda: SSHConnectionResource(
            host=address.host,
            port=address.port or 22,
            user=address.user or "",
            key_path=like.key,
            known_hosts_file=like.known_hosts,
            jump_host=jump,
        )
    )


def _copy(connection: SSHConnectionResource, **changes: object) -> SSHConnectionResource:
    values = {name: getattr(connection, name) for name in type(connection).model_fields}
    return type(connection)(**{**values, **changes})


def _jump_user(address: SshAddress) -> str:
    return "none" if address.jump is None else address.jump.rpartition("@")[0]


def _make(maker: Callable[[], _T]) -> _T:
    """Make an object of dagster-slurm; what it refuses is a wrong setting."""
    try:
        return maker()
    except ValueError as error:
        raise PermanentError(
            expected="values that dagster-slurm takes",
            found=str(error),
            where="places.slurm for the transport dagster_slurm",
            remedy="correct the named values; nothing was sent to the cluster",
        ) from error


def _no_resource(name: str, *, found: str) -> PermanentError:
    return PermanentError(
        expected=f"a SlurmResource of dagster-slurm named {name}",
        found=found,
        where="places.slurm.resource",
        remedy="name it as module:attribute; the module must be importable where Dagster and `morphseq` run",
    )

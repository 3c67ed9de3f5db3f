"""Connection: the client and the poller of a cluster, one of each per process, made from the machine settings.

It also reports lost contact to the people who look at the run (`Contact`, `log`).
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Final, TypeVar

from morphseq_dagster.cluster.attempt_folder import JobRoot
from morphseq_dagster.cluster.client import Client
from morphseq_dagster.cluster.commands import Scheduler
from morphseq_dagster.cluster.errors import UnreachableError
from morphseq_dagster.cluster.job_handle import Timeouts
from morphseq_dagster.cluster.poller import Poller
from morphseq_dagster.cluster.transports.local import LocalTransport
from morphseq_dagster.cluster.transports.protocol import Transport
from morphseq_dagster.cluster.transports.ssh import SshTransport
from morphseq_dagster.engine.layout import Layout
from morphseq_dagster.settings.job_values import Resources
from morphseq_dagster.settings.slurm import SlurmSettings

_T = TypeVar("_T")
_LOG = logging.getLogger(__name__)
_RECONNECT_S: Final = 5.0
_WARN_AFTER_S: Final = 300.0
_CONNECTIONS: dict[str, tuple[Client, Poller]] = {}
_CONNECTING = threading.Lock()


def connect(settings: SlurmSettings, *, data_root: Path) -> tuple[Client, Poller]:
    """Client and poller of a cluster and a data root: one of each, and one login, per process."""
    connection = [settings.transport, settings.resource, settings.ssh and asdict(settings.ssh), settings.commands]
    timeouts = Timeouts(grace_s=settings.grace_s, lost_s=settings.lost_s, settle_s=settings.settle_s)
    there = settings.data_root or str(data_root)
    name = json.dumps([connection, str(data_root), there, timeouts.__dict__])
    with _CONNECTING:
        if name not in _CONNECTIONS:
            scheduler = Scheduler(make_transport(settings), folder=settings.commands)
            root = JobRoot(Layout(data_root).jobs, there=str(Layout(Path(there)).jobs))
            client = Client(scheduler, root=root, timeouts=timeouts)
            _CONNECTIONS[name] = (client, Poller(client))
        return _CONNECTIONS[name]


def close_connections() -> None:
    """Log out everywhere and stop watching, for a process that ends by `os._exit`."""
    with _CONNECTING:
        for client, poller in _CONNECTIONS.values():
            poller.close()
            client.scheduler.close()
        _CONNECTIONS.clear()


def make_transport(settings: SlurmSettings) -> Transport:
    """Make the transport that the settings choose; what it imports is imported now.

    Raises
    ------
    PermanentError
        When the packages of the chosen transport are not installed, or its values do not fit.
    """
    if settings.transport == "dagster_slurm":
        from morphseq_dagster.resources import dagster_slurm

        if settings.resource is not None:
            return dagster_slurm.DagsterSlurmTransport(dagster_slurm.load_resource(settings.resource).ssh)
        if settings.ssh is not None:
            return dagster_slurm.DagsterSlurmTransport(dagster_slurm.connection_of(settings.ssh))
    return LocalTransport() if settings.ssh is None else SshTransport(settings.ssh)


def default_resources(settings: SlurmSettings) -> Resources:
    """Resources of a job without settings: those of the queue in a named resource, if there is one."""
    if settings.resource is None:
        return Resources()
    from morphseq_dagster.resources import dagster_slurm

    return dagster_slurm.resources_of(dagster_slurm.load_resource(settings.resource).queue)


class Contact:
    """Whether the cluster answers; lost contact is logged when it begins, when it ends, and every five minutes."""

    def __init__(self) -> None:
        self._lost: float | None = None

    def update(self, trouble: str) -> None:
        """Take the reason why there is no answer; empty when there was one."""
        if not trouble:
            if self._lost is not None:
                log("the cluster answers again")
            self._lost = None
        elif self._lost is None:
            self._lost = time.monotonic()
            log(f"no contact with the cluster, waiting: {trouble}")
        elif time.monotonic() - self._lost > _WARN_AFTER_S:
            self._lost = time.monotonic()
            _LOG.warning("still no contact with the cluster after %.0f s: %s", _WARN_AFTER_S, trouble)

    def retried(self, action: Callable[[], _T]) -> _T:
        """Do something for which the cluster must answer, as often as it takes."""
        while True:
            try:
                done = action()
            except UnreachableError as error:
                self.update(error.found)
                time.sleep(_RECONNECT_S)
            else:
                self.update("")
                return done


def log(text: str) -> None:
    """Write a line for people who look at the run: into its log and to its standard error stream."""
    _LOG.info(text)
    sys.stderr.write(f"slurm: {text}\n")
    sys.stderr.flush()

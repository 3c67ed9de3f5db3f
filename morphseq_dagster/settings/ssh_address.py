"""SSH address: where to log in and as whom, as checked values and as options of OpenSSH.

It is the section `places.slurm.ssh` of the machine settings (`slurm.py`). The connection is
`cluster/transports/ssh.py`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Final

from pydantic import ConfigDict

from morphseq_dagster.settings.job_values import refuse

_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]*")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_JUMP = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]*@)?[A-Za-z0-9_][A-Za-z0-9_.-]*(?::[0-9]{1,5})?")
_FILE = re.compile(r"[A-Za-z0-9._/+~-]+")
LASTING_OPTIONS: Final = (
    *("-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3"),
    *("-o", "ForwardAgent=no", "-o", "ForwardX11=no", "-o", "LogLevel=ERROR"),
)
"""Options of every connection: lost contact shows within seconds, nothing of ours is forwarded."""


@dataclass(frozen=True, kw_only=True)
class SshAddress:
    """Where to log in, and as whom.

    Parameters
    ----------
    host, port, user
        The login node, or its section in the SSH configuration, from which user and port come unless given.
    key
        Private key file; without one `ssh` uses the agent and its configuration.
    known_hosts
        File of known host keys; the user's own unless given. An unknown or changed host key is refused.
    jump
        Host to go through: `user@host:port`; with the same key and the same file of known host keys.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    host: str
    port: int | None = None
    user: str | None = None
    key: str | None = None
    known_hosts: str | None = None
    jump: str | None = None

    def __post_init__(self) -> None:
        """Refuse values that could be read as options."""
        wrong = [] if _HOST.fullmatch(self.host) else [f"host {self.host!r}"]
        wrong += [f"user {self.user!r}"] if self.user is not None and not _USER.fullmatch(self.user) else []
        wrong += [f"jump {self.jump!r}"] if self.jump is not None and not _JUMP.fullmatch(self.jump) else []
        wrong += [f"port {self.port!r}"] if self.port is not None and not 1 <= self.port <= 65535 else []
        for name, value in (("key", self.key), ("known_hosts", self.known_hosts)):
            wrong += [f"{name} {value!r}"] if value is not None and not _FILE.fullmatch(value) else []
        refuse(wrong, where="address of the login node")

    def options(self) -> list[str]:
        """Options of `ssh` for this address, without the host."""
        found = self._ways()
        if self.port is not None:
            found += ["-p", str(self.port)]
        if self.user is not None:
            found += ["-l", self.user]
        return found

    def route(self) -> list[str]:
        """Options of `ssh` for the way to the login node.

        `-J` would ask the agent and the SSH configuration alone about the host in between. All parts are plain words
        (`_FILE`, `_JUMP`), which matters as a shell reads this command.
        """
        if self.jump is None:
            return []
        target, _, port = self.jump.partition(":")
        alone = ["-o", "ControlMaster=no", "-o", "ControlPath=none"]
        through = [*alone, *self._ways(), *(["-p", port] if port else []), "-W", "[%h]:%p", target]
        return ["-o", f"ProxyCommand=ssh {' '.join(through)}"]

    def _ways(self) -> list[str]:
        """Options for login node and jump host alike."""
        found = ["-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", *LASTING_OPTIONS]
        if self.known_hosts is not None:
            found += ["-o", f"UserKnownHostsFile={self.known_hosts}"]
        if self.key is not None:
            found += ["-i", self.key, "-o", "IdentitiesOnly=yes"]
        return found

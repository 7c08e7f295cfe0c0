"""`--device ssh:[USER@]HOST[:PORT]`: a machine with an SSH server, as a board on the desk.

It takes what the command `ssh` takes from ~/.ssh: the settings of `config`, the keys there and
those of an agent, and `known_hosts`. Nobody is asked for a password. Files travel through `cat`,
which every server has, while many a board's has no SFTP.
"""

from __future__ import annotations

import asyncio
import errno
import re
import threading
from collections.abc import Coroutine, Iterator
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from canao.device.transports.remote import RemoteTransport, failed
from canao.device.transports.transport import Completed
from canao.errors import DeviceError, InputError

_EXTRA = "install it with: pip install 'canao[ssh]'"
_ADDRESS = re.compile(
    r"(?:(?P<user>[A-Za-z0-9_][\w.-]*)@)?(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_][\w.-]*)"
    r"(?::(?P<port>\d{1,5}))?", re.ASCII,
)  # fmt: skip
_CONNECT_S = 20
# A machine that says nothing for so long, three times, is gone.
_ALIVE_S = 15
_FILE_S = 3600.0  # for which a file may travel
_CONFIG = Path("~/.ssh/config")
_HOSTS = re.compile(r"^\s*host\s*[\s=]\s*(.+)$", re.IGNORECASE)

Result = TypeVar("Result")


class SshTransport(RemoteTransport):
    """A machine that `text`, [USER@]HOST[:PORT], names. It is connected to when it is first asked
    something, and again after a connection was lost."""

    def __init__(self, text: str) -> None:
        found = _ADDRESS.fullmatch(text)
        if found is None or not 0 < int(found["port"] or 22) < 65536:
            raise InputError(f"device 'ssh:{text:.100}': is no address of a machine; give "
                             "[USER@]HOST[:PORT] behind ssh:")  # fmt: skip
        super().__init__(f"ssh:{text}", '"${TMPDIR:-/tmp}"')
        self._host, self._shown = found["host"].strip("[]"), text
        # What is not given is left to ~/.ssh/config.
        self._options: dict[str, Any] = {"username": found["user"]} if found["user"] else {}
        if found["port"]:
            self._options["port"] = int(found["port"])
        self._ssh = _asyncssh()
        self._connection: Any = None

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            _answer_of(_ended(connection))

    def _shell(self, script: str, timeout: float) -> Completed:
        return self._run(script, timeout, stdin=self._ssh.DEVNULL)

    def _send(self, local: Path, there: str) -> None:
        done = self._run(f"umask 077; cat > {there}", _FILE_S, stdin=str(local))
        if done.code:
            raise failed(done)

    def _fetch(self, there: str, local: Path) -> None:
        code, told, message = self._told(f"cat {there}", _FILE_S, stdin=self._ssh.DEVNULL)
        if code:
            raise failed(Completed.of_shell(code, "", _text(message)))
        local.write_bytes(told)

    def _run(self, script: str, timeout: float, **streams: Any) -> Completed:
        code, told, message = self._told(script, timeout, **streams)
        return Completed.of_shell(code, _text(told), _text(message))

    def _told(self, script: str, timeout: float, **streams: Any) -> tuple[int, bytes, bytes]:
        """Run a script: its code, and what it says. The user's shell there may be any; sh is what
        it starts. Shells may say something themselves when they start, which goes: what counts is
        behind a mark."""
        mark = f"canao-{self._token}"
        quoted = f"echo {mark}; echo {mark} >&2; {script}".replace("'", "'\\''")
        try:
            code, told, message = _answer_of(self._ran(f"exec sh -c '{quoted}'", timeout, streams))
            line = f"{mark}\n".encode()
            return code, _behind(line, told), _behind(line, message)
        except self._ssh.Error as error:
            self._lost()
            raise self._error(error) from None
        except asyncio.TimeoutError:
            raise TimeoutError(errno.ETIMEDOUT, "no answer in time") from None
        except OSError:
            self._lost()
            raise
        except ValueError as error:  # of a file in ~/.ssh
            raise DeviceError(f"{self.name}: {str(error)[:200]}; correct ~/.ssh/config, or the key "
                              "that it names") from None  # fmt: skip

    async def _ran(
        self, command: str, timeout: float, streams: dict[str, Any]
    ) -> tuple[int, bytes, bytes]:
        if self._connection is None:
            self._connection = await self._connected()
        running = self._connection.run(command, check=False, encoding=None, **streams)
        done = await asyncio.wait_for(running, timeout)
        if done.returncode is None:
            raise OSError(errno.ECONNRESET, "the connection was lost")
        return done.returncode, done.stdout or b"", done.stderr or b""

    async def _connected(self) -> Any:
        connecting = self._ssh.connect(
            self._host, **self._options, password_auth=False, kbdint_auth=False,
            keepalive_interval=_ALIVE_S, keepalive_count_max=3,
        )  # fmt: skip
        try:
            return await asyncio.wait_for(connecting, _CONNECT_S)
        except asyncio.TimeoutError:
            raise OSError(errno.EHOSTUNREACH, f"no answer for {_CONNECT_S} s") from None

    def _lost(self) -> None:
        self._connection = None
        self._forget()

    def _error(self, error: Exception) -> Exception:
        """What the library says, with what the user can do."""
        if isinstance(error, self._ssh.HostKeyNotVerifiable):
            return DeviceError(
                f"{self.name}: its host key is not in known_hosts, or another one is; connect once "
                f"with `{self._by_hand}`, which shows the key and asks"
            )
        if isinstance(error, self._ssh.PermissionDenied):
            return DeviceError(
                f"{self.name}: takes none of your keys, and no password is asked for; put one "
                f"there with `ssh-copy-id {self._by_hand.removeprefix('ssh ')}`"
            )
        return OSError(errno.ECONNRESET, f"the connection was lost: {str(error) or 'no reason'}")

    @property
    def _by_hand(self) -> str:
        """How a user connects to the same machine."""
        if "port" not in self._options:
            return f"ssh {self._shown}"
        return f"ssh -p {self._options['port']} {self._shown.rpartition(':')[0]}"


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """An event loop in a thread of its own, in which the library works while others wait."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="canao-ssh", daemon=True).start()
    return loop


def _answer_of(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """What a coroutine gives, or raises."""
    return asyncio.run_coroutine_threadsafe(coroutine, _loop()).result()


async def _ended(connection: Any) -> None:
    connection.close()
    await connection.wait_closed()


def _text(told: bytes) -> str:
    return told.decode("utf-8", "replace")


def _behind(mark: bytes, told: bytes) -> bytes:
    """What comes after a mark; all of it where there is none, as of a shell that did not start."""
    _, found, rest = told.partition(mark)
    return rest if found else told


def _asyncssh() -> Any:
    try:
        import asyncssh
    except ImportError:
        raise InputError(f"--device ssh needs the package asyncssh; {_EXTRA}") from None
    return asyncssh


def hosts() -> Iterator[str]:
    """The machines that ~/.ssh/config names; those of patterns and of other files are not told."""
    try:
        lines = _CONFIG.expanduser().read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        if match := _HOSTS.match(line):
            yield from (name for name in match[1].split() if _ADDRESS.fullmatch(name))

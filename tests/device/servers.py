"""Servers that tests reach devices by, each on a port and with keys of its own: sshd, and adb."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from canao.cache.place import cache_directory
from tests.device.phone import Phone

_CONFIG = """\
ListenAddress 127.0.0.1:{port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile none
StrictModes no
PermitRootLogin yes
PasswordAuthentication no
KbdInteractiveAuthentication no
"""
USER = pwd.getpwuid(os.getuid()).pw_name


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


def wait_for(port: int) -> None:
    """Until somebody listens there."""
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise AssertionError(f"nobody listens on port {port}")


class SshServer:
    """sshd on a free port of this machine. `home` is of a user who may log in."""

    def __init__(self, folder: Path, more: str = "") -> None:
        self.folder, self.port = folder, free_port()
        self.home = folder / "home"
        (self.home / ".ssh").mkdir(parents=True, mode=0o700)
        for name in (folder / "host_key", self.home / ".ssh/id_ed25519"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(name)], check=True
            )
        shutil.copy(self.home / ".ssh/id_ed25519.pub", folder / "authorized_keys")
        self.known_hosts = self.home / ".ssh/known_hosts"
        key = (folder / "host_key.pub").read_text().split()[:2]
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {' '.join(key)}\n")
        config = folder / "sshd_config"
        config.write_text(_CONFIG.format(port=self.port, folder=folder) + more)
        self._command = [_sshd(), "-D", "-e", "-f", str(config)]
        self.start()

    @property
    def address(self) -> str:
        return f"{USER}@127.0.0.1:{self.port}"

    def start(self) -> None:
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # which its service makes
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(self._command, stderr=log, start_new_session=True)
        wait_for(self.port)

    def stop(self) -> None:
        """With all of its connections."""
        if self._process.poll() is None:
            # What runs in a connection last: else it would end before the connection is lost.
            for pid in (self._process.pid, *_children(self._process.pid)):
                with suppress(ProcessLookupError):  # it may just have ended by itself
                    os.kill(pid, signal.SIGKILL)
            self._process.wait()


def _children(pid: int) -> list[int]:
    """What a process started, and what that started."""
    told = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True)
    own = [int(word) for word in told.stdout.split()]
    return [below for one in own for below in (one, *_children(one))]


def _sshd() -> str:
    found = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None or shutil.which("ssh-keygen") is None:
        pytest.skip("sshd is not installed")
    return found


def at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this process take another user's home for its own, but for what is built."""
    monkeypatch.setenv("CANAO_CACHE", str(cache_directory()))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)


@contextmanager
def ssh_server(folder: Path, more: str = "") -> Iterator[SshServer]:
    """`more` are further lines of its configuration."""
    server = SshServer(folder, more)
    try:
        yield server
    finally:
        server.stop()


class AdbServer:
    """The server of the command `adb` on a free port."""

    def __init__(self, home: Path) -> None:
        self.port = free_port()
        self._environment = os.environ | {
            "HOME": str(home), "ANDROID_ADB_SERVER_PORT": str(self.port), "ADB_MDNS": "0",
            "ANDROID_VENDOR_KEYS": "",
        }  # fmt: skip
        self.call("start-server")
        wait_for(self.port)

    def call(self, *arguments: str) -> str:
        done = subprocess.run(
            ["adb", "-P", str(self.port), *arguments], env=self._environment, text=True,
            capture_output=True, timeout=60,
        )  # fmt: skip
        return done.stdout + done.stderr

    def connect(self, phone: Phone) -> str:
        """The phone's serial number; once it can be used, or will not be."""
        self.call("connect", phone.address)
        wanted = "device" if phone.accepts else "unauthorized"
        for _ in range(200):
            if f"{phone.address}\t{wanted}" in self.call("devices"):
                return phone.address
            time.sleep(0.05)
        raise AssertionError(self.call("devices"))

    def kill(self) -> None:
        self.call("kill-server")


@contextmanager
def adb_server(home: Path) -> Iterator[AdbServer]:
    if shutil.which("adb") is None:
        pytest.skip("adb is not installed")
    server = AdbServer(home)
    try:
        yield server
    finally:
        server.kill()

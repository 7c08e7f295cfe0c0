"""`--device adb[:SERIAL]`: a phone, by way of the server of the Android Debug Bridge.

The server is that of the command `adb`, at ANDROID_ADB_SERVER_ADDRESS and _PORT if these are set.
It is not started here. Phones need Android 7, from which on a program's exit code is told.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from canao.artifact.files import opened
from canao.device.transports.remote import RemoteTransport
from canao.device.transports.transport import Completed
from canao.errors import DeviceError, InputError

READY = "device"  # what the server calls a phone that can be used
_EXTRA = "install it with: pip install 'canao[adb]'"
_PARENT = "/data/local/tmp"  # where shells may write and run programs
_SERIAL = re.compile(r"[\w.:\[\]@%-]{1,200}", re.ASCII)
_ANSWER_S = 20.0
_CHUNK = 1 << 16
_MODE = 0o100700
_BROKEN = (errno.EPIPE, errno.ECONNRESET, errno.ECONNABORTED)
_STDOUT, _STDERR, _EXIT = 1, 2, 3  # packets of a shell that tells exit codes
_REMEDIES = {
    "unauthorized": "confirm this computer's key on its screen",
    "authorizing": "confirm this computer's key on its screen",
    "offline": "plug it in anew, or run: adb reconnect offline",
    "no": "give this user the right to USB devices (adb devices -l names the rule)",
}


@dataclass(frozen=True, slots=True)
class Phone:
    """A phone as the server knows it: `state` is 'device' where it can be used."""

    serial: str
    state: str
    model: str = ""


class AdbTransport(RemoteTransport):
    """The phone of a serial number, or the only one where `serial` is ''."""

    def __init__(self, serial: str = "") -> None:
        if serial and not _SERIAL.fullmatch(serial):
            raise InputError(f"device 'adb:{serial:.100}': is no serial number; give one that "
                             "`adb devices` lists behind adb:")  # fmt: skip
        self._phone = _chosen(serial, phones())
        super().__init__(f"adb:{self._phone.serial}", _PARENT)
        self._adb = _adbutils()

    def _shell(self, script: str, timeout: float) -> Completed:
        deadline, told = time.monotonic() + timeout, {_STDOUT: b"", _STDERR: b""}
        with self._service(f"shell,v2,raw:{script}") as stream:
            while True:
                kind, data = _packet(stream, deadline)
                if kind == _EXIT:
                    texts = (part.decode("utf-8", "replace") for part in told.values())
                    return Completed.of_shell(data[0], *texts)
                if kind in told:
                    told[kind] += data

    def _send(self, local: Path, there: str) -> None:
        name = f"{there},{_MODE}".encode()
        with self._service("sync:") as stream, opened(local) as file:
            stream.sendall(_sync(b"SEND", len(name)) + name)
            while chunk := file.read(_CHUNK):
                stream.sendall(_sync(b"DATA", len(chunk)) + chunk)
            stream.sendall(_sync(b"DONE", int(time.time())))
            stream.settimeout(_ANSWER_S)
            _answer(stream)

    def _fetch(self, there: str, local: Path) -> None:
        name = there.encode()
        with self._service("sync:") as stream, open(local, "wb") as file:
            stream.sendall(_sync(b"RECV", len(name)) + name)
            while (size := _data(stream)) is not None:
                file.write(_exactly(stream, size))

    @contextmanager
    def _service(self, name: str) -> Iterator[socket.socket]:
        """A connection to a service of the phone. OSError if it breaks."""
        _require_server()
        try:
            with self._client().device(self._phone.serial).open_transport(
                timeout=_ANSWER_S
            ) as connection:
                connection.send_command(name)
                connection.check_okay()
                yield connection.conn
        except (self._adb.AdbError, EOFError) as error:
            self._forget()
            raise self._gone(error) from None
        except OSError as error:
            if not isinstance(error, TimeoutError) and error.errno in _BROKEN:
                self._forget()
                raise self._gone(error) from None
            raise

    def _gone(self, error: Exception) -> Exception:
        """Why the phone did not answer: what the server says of it now, if it can be asked."""
        for phone in phones():
            if phone.serial == self._phone.serial and phone.state == READY:
                return OSError(errno.EIO, _line(error) or "the phone ended the connection")
        return OSError(errno.ENODEV, "the phone is gone; plug it in again")

    def _client(self) -> Any:
        host, port = _server()
        return self._adb.AdbClient(host, port)


def phones() -> list[Phone]:
    """All that the server knows. DeviceError if there is no server."""
    adb, (host, port) = _adbutils(), _server()
    _require_server()
    try:
        found = adb.AdbClient(host, port, socket_timeout=_ANSWER_S).list(extended=True)
    except (adb.AdbError, OSError, EOFError, ValueError) as error:
        raise DeviceError(f"adb: its server at {host}:{port} does not answer ({_line(error)}); "
                          "run: adb kill-server; adb start-server") from None  # fmt: skip
    return [Phone(one.serial, one.state, one.tags.get("model", "").replace("_", " "))
            for one in found]  # fmt: skip


def _chosen(serial: str, known: list[Phone]) -> Phone:
    """The phone of a serial number, or the only one; DeviceError if it cannot be used."""
    names = ", ".join(phone.serial for phone in known)
    chosen = [phone for phone in known if serial in ("", phone.serial)]
    if not known:
        raise DeviceError(f"adb{serial and ':' + serial}: no phone; plug one in that has USB "
                          "debugging switched on, or run: adb connect HOST:PORT")  # fmt: skip
    if not chosen:
        raise DeviceError(f"adb:{serial}: no such phone; there are: {names}")
    if len(chosen) > 1:
        raise DeviceError(f"adb: there are several phones, {names}; name one, as --device "
                          f"adb:{chosen[0].serial}")  # fmt: skip
    if chosen[0].state != READY:
        state = {"no": "without permissions"}.get(chosen[0].state, chosen[0].state)
        remedy = _REMEDIES.get(chosen[0].state, "start Android on it, and plug it in again")
        raise DeviceError(f"adb:{chosen[0].serial}: is {state}; {remedy}")
    return chosen[0]


def _server() -> tuple[str, int]:
    """Where the server is, by the variables that `adb` itself reads."""
    port = os.environ.get("ANDROID_ADB_SERVER_PORT") or "5037"
    if not port.isdecimal() or not 0 < int(port) < 65536:
        raise InputError(f"ANDROID_ADB_SERVER_PORT={port:.20}: no port; give a number to 65535")
    return os.environ.get("ANDROID_ADB_SERVER_ADDRESS") or "127.0.0.1", int(port)


def _require_server() -> None:
    host, port = _server()
    try:
        socket.create_connection((host, port), _ANSWER_S).close()
    except OSError:
        raise DeviceError(f"adb: no server answers at {host}:{port}; start it with: adb "
                          "start-server") from None  # fmt: skip


def _adbutils() -> Any:
    try:
        import adbutils
    except ImportError:
        raise InputError(f"--device adb needs the package adbutils; {_EXTRA}") from None
    return adbutils


def _packet(stream: socket.socket, deadline: float) -> tuple[int, bytes]:
    """The next packet of a shell: what it is of, and its bytes."""
    kind, size = struct.unpack("<BI", _exactly(stream, 5, deadline))
    return kind, _exactly(stream, size, deadline)


def _exactly(stream: socket.socket, size: int, deadline: float | None = None) -> bytes:
    """So many bytes. TimeoutError if they are late; EOFError if the other side ends before."""
    parts = bytearray()
    while len(parts) < size:
        left = _ANSWER_S if deadline is None else deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(errno.ETIMEDOUT, "no answer in time")
        stream.settimeout(left)
        part = stream.recv(min(size - len(parts), 1 << 20))
        if not part:
            raise EOFError
        parts += part
    return bytes(parts)


def _sync(name: bytes, number: int) -> bytes:
    """The head of a request for files."""
    return name + struct.pack("<I", number)


def _data(stream: socket.socket) -> int | None:
    """The size of the part of a file that comes next; None after the last."""
    name, size = _answer(stream)
    return size if name == b"DATA" else None


def _answer(stream: socket.socket) -> tuple[bytes, int]:
    """An answer about a file and its number; OSError if it tells of a failure."""
    head = _exactly(stream, 8)
    name, number = head[:4], int.from_bytes(head[4:], "little")
    if name in (b"OKAY", b"DONE", b"DATA"):
        return name, number
    said = _exactly(stream, min(number, 1 << 16)).decode("utf-8", "replace")
    if "no space left" in said.lower():
        raise OSError(errno.ENOSPC, "no space left on the phone; free some")
    raise OSError(errno.EIO, said or "the phone refused the file")


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")

"""A phone, as far as an adb server can tell: a daemon that speaks its protocol over TCP, with a
shell that tells exit codes and the service for files. Programs run on this machine.

What is in /data/local/tmp there is in a folder here. Programs of 64-bit ARM are run by qemu.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import struct
import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from queue import Queue

TMP = "/data/local/tmp"
_VERSION, _MOST = 0x01000001, 1 << 18  # from this version on, nobody sums up bytes
_HEAD = struct.Struct("<4s5I")
_BANNER = "device::ro.product.name=paper;ro.product.model={};ro.product.device=paper;features={}"
_FEATURES = "shell_v2,cmd,stat_v2"
_ARM = 183  # e_machine of ELF


class Phone:
    """Listens on a free port of this machine: `adb connect` takes its address.

    root      the folder that stands for /data/local/tmp
    model     what it calls itself
    accepts   whether it lets a computer in; else it waits for somebody to say yes on its screen
    machine   the text that it prints of itself; None: what this machine prints
    emulator  what runs programs of 64-bit ARM
    full      whether there is no room left
    """

    def __init__(
        self, root: Path, model: str = "Paper 1", *, accepts: bool = True,
        machine: str | None = None, emulator: Sequence[str] = (),
    ) -> None:  # fmt: skip
        root.mkdir(parents=True)
        self.root, self.model, self.accepts, self.machine = root, model, accepts, machine
        self.emulator, self.full = tuple(emulator), False
        self.sent: list[str] = []  # names of files that were pushed
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = []
        self.started: list[subprocess.Popen[bytes]] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def vanish(self) -> None:
        """As if the cable were pulled out."""
        for one in (self._listener, *self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for process in self.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def here(self, path: str) -> Path:
        """The path here of a path there."""
        return Path(path.replace(TMP, str(self.root), 1))

    def _listen(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._open.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError, EOFError):
            Link(self, connection).serve()


class Link:
    """A connection to one adb server."""

    def __init__(self, phone: Phone, connection: socket.socket) -> None:
        self.phone, self._connection = phone, connection
        self._streams: dict[int, Stream] = {}
        self._writing = threading.Lock()

    def serve(self) -> None:
        while True:
            name, first, second, size, _, _ = _HEAD.unpack(self._exactly(_HEAD.size))
            data = self._exactly(size)
            if name in (b"CNXN", b"AUTH"):
                self._greet()
            elif name == b"OPEN":
                self._opened(first, data.rstrip(b"\0").decode())
            elif second in self._streams:
                self._streams[second].told(name, data)
                if name == b"CLSE":
                    del self._streams[second]

    def send(self, name: bytes, first: int, second: int, data: bytes = b"") -> None:
        magic = int.from_bytes(name, "little") ^ 0xFFFFFFFF
        head = _HEAD.pack(name, first, second, len(data), 0, magic)
        with self._writing:
            self._connection.sendall(head + data)

    def _greet(self) -> None:
        if self.phone.accepts:
            banner = _BANNER.format(self.phone.model, _FEATURES)
            self.send(b"CNXN", _VERSION, _MOST, banner.encode())
        else:
            self.send(b"AUTH", 1, 0, os.urandom(20))

    def _opened(self, theirs: int, service: str) -> None:
        stream = Stream(self, len(self._streams) + 1 + (theirs << 8), theirs)
        self._streams[stream.own] = stream
        for begin, work in (("shell,v2,raw:", run_shell), ("sync:", keep_files)):
            if service.startswith(begin):
                self.send(b"OKAY", stream.own, theirs)
                arguments = (self.phone, stream, service.removeprefix(begin))
                threading.Thread(target=_until_the_end, args=(work, *arguments),
                                 daemon=True).start()  # fmt: skip
                return
        self.send(b"CLSE", 0, theirs)

    def _exactly(self, size: int) -> bytes:
        parts = b""
        while len(parts) < size:
            part = self._connection.recv(size - len(parts))
            if not part:
                raise EOFError
            parts += part
        return parts


class Stream:
    """One of the streams of a link. Each packet waits until the one before it has arrived."""

    def __init__(self, link: Link, own: int, theirs: int) -> None:
        self._link, self.own, self.theirs = link, own, theirs
        self._arrived: Queue[bytes | None] = Queue()
        self._may_write = threading.Semaphore(1)
        self._kept, self.closed = b"", False

    def told(self, name: bytes, data: bytes) -> None:
        """A packet of the server."""
        if name == b"WRTE":
            self._arrived.put(data)
            self._link.send(b"OKAY", self.own, self.theirs)
        elif name == b"OKAY":
            self._may_write.release()
        else:
            self.closed = True
            self._arrived.put(None)
            self._may_write.release()

    def read(self, size: int) -> bytes:
        while len(self._kept) < size:
            part = self._arrived.get()
            if part is None:
                raise EOFError
            self._kept += part
        found, self._kept = self._kept[:size], self._kept[size:]
        return found

    def write(self, data: bytes) -> None:
        for begin in range(0, len(data), 1 << 16):
            self._may_write.acquire()
            if self.closed:
                raise EOFError
            self._link.send(b"WRTE", self.own, self.theirs, data[begin : begin + (1 << 16)])

    def close(self) -> None:
        self._may_write.acquire(timeout=5)  # the last packet has arrived
        self._link.send(b"CLSE", self.own, self.theirs)


def _until_the_end(work, phone: Phone, stream: Stream, rest: str) -> None:
    with suppress(OSError, EOFError):
        work(phone, stream, rest)
        stream.close()


def run_shell(phone: Phone, stream: Stream, script: str) -> None:
    """Runs a script, and tells what it said, and its exit code as Android's shell does."""
    if phone.machine is not None and "uname -srm" in script:
        code, out, err = 0, phone.machine.encode(), b""
    else:
        script = script.replace(TMP, str(phone.root))
        started = subprocess.Popen(
            ["/bin/sh", "-c", _emulated(phone, script)], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
            env={"PATH": os.environ["PATH"]},
        )  # fmt: skip
        phone.started.append(started)
        out, err = (part.replace(str(phone.root).encode(), TMP.encode())
                    for part in started.communicate())  # fmt: skip
        code = started.returncode if started.returncode >= 0 else 128 - started.returncode
    for kind, data in ((1, out), (2, err), (3, bytes([code]))):
        if data:
            stream.write(struct.pack("<BI", kind, len(data)) + data)


def _emulated(phone: Phone, script: str) -> str:
    """The script, with the emulator before a program of 64-bit ARM."""
    found = re.search(r"exec (/\S+)", script)
    if not phone.emulator or not found or not Path(found[1]).is_file():
        return script
    with open(found[1], "rb") as file:
        head = file.read(20)
    arm = head[:4] == b"\x7fELF" and int.from_bytes(head[18:], "little") == _ARM
    return script.replace("exec ", f"exec {' '.join(phone.emulator)} ", 1) if arm else script


def keep_files(phone: Phone, stream: Stream, rest: str) -> None:
    """Takes files, gives them, and says what they are."""
    while True:
        head = stream.read(8)
        name, size = head[:4], int.from_bytes(head[4:], "little")
        if name == b"QUIT":
            return
        text = stream.read(size).decode()
        if name == b"SEND":
            _take(phone, stream, text)
        elif name == b"RECV":
            _give(stream, phone.here(text))
        elif name == b"STAT":
            path = phone.here(text)
            info = path.stat() if path.exists() else None
            numbers = (info.st_mode, info.st_size, int(info.st_mtime)) if info else (0, 0, 0)
            stream.write(b"STAT" + struct.pack("<III", *numbers))
        else:
            _refuse(stream, f"unknown command {name!r}")


def _take(phone: Phone, stream: Stream, text: str) -> None:
    path, _, mode = text.rpartition(",")
    content = b""
    while True:
        head = stream.read(8)
        if head[:4] == b"DONE":
            break
        content += stream.read(int.from_bytes(head[4:], "little"))
    if phone.full:
        _refuse(stream, f"couldn't write to '{path}': No space left on device")
        return
    place = phone.here(path)
    place.write_bytes(content)
    place.chmod(stat.S_IMODE(int(mode)))
    phone.sent.append(place.name)
    stream.write(b"OKAY" + bytes(4))


def _give(stream: Stream, place: Path) -> None:
    if not place.is_file():
        _refuse(stream, f"open failed: No such file or directory: {place.name}")
        return
    content = place.read_bytes()
    for begin in range(0, len(content), 1 << 16):
        part = content[begin : begin + (1 << 16)]
        stream.write(b"DATA" + struct.pack("<I", len(part)) + part)
    stream.write(b"DONE" + bytes(4))


def _refuse(stream: Stream, why: str) -> None:
    stream.write(b"FAIL" + struct.pack("<I", len(why)) + why.encode())

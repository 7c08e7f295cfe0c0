"""What devices over SSH add to the suite: addresses, keys, files that are sent once, lost
connections."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from canao.artifact.directory import Artifact
from canao.device.base import Failure, MeasureConfig
from canao.device.bench import connect
from canao.device.transports.ssh import SshTransport, hosts
from canao.errors import DeviceError, InputError
from tests.device.servers import USER, SshServer, at_home, ssh_server


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    with ssh_server(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture
def server(sshd: SshServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[SshServer]:
    at_home(sshd.home, monkeypatch)
    known = sshd.known_hosts.read_text()
    yield sshd
    sshd.known_hosts.write_text(known)
    (sshd.home / ".ssh/config").unlink(missing_ok=True)


@pytest.fixture
def way(server: SshServer) -> Iterator[SshTransport]:
    way = SshTransport(server.address)
    yield way
    way.close()


def running(seconds: str) -> bool:
    """Whether somebody sleeps for so long."""
    told = [p.read_bytes() for p in Path("/proc").glob("[0-9]*/cmdline") if p.exists()]
    return f"sleep\0{seconds}\0".encode() in told


def test_shells_that_say_something_when_they_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from a .bashrc that greets: neither results nor files nor messages have it in them."""
    greeting = tmp_path / "greeting"
    greeting.write_text('#!/bin/sh\necho welcome; echo "mind the step" >&2\n'
                        'exec sh -c "$SSH_ORIGINAL_COMMAND"\n')  # fmt: skip
    greeting.chmod(0o755)
    with ssh_server(tmp_path / "sshd", f"ForceCommand {greeting}\n") as server:
        at_home(server.home, monkeypatch)
        way = SshTransport(server.address)
        done = way.run(["sh", "-c", "echo out; echo err >&2; exit 3"], 20)
        assert (done.code, done.stdout, done.stderr) == (3, "out\n", "err\n")
        sent, back = tmp_path / "sent", tmp_path / "back"
        sent.write_bytes(bytes(range(256)) * 100)
        way.pull(way.push(sent, "sent"), back)
        assert back.read_bytes() == sent.read_bytes()
        assert connect(way).machine.cpu
        way.close()


def test_what_a_command_says(way: SshTransport) -> None:
    done = way.run(["sh", "-c", "echo out; echo err >&2; exit 3"], 20)
    assert (done.code, done.stdout, done.stderr) == (3, "out\n", "err\n")
    assert way.run(["sh", "-c", "kill -11 $$"], 20).code == -11
    odd = "a b'c\"$HOME;|&*\\n\nd"
    assert way.run(["printf", "%s", odd], 20).stdout == odd


def test_a_command_that_takes_too_long_is_stopped(way: SshTransport) -> None:
    seconds = str(os.getpid() + 20_000)
    with pytest.raises(TimeoutError, match=r"sleep did not end within 0\.5 s"):
        way.run(["sleep", seconds], 0.5)
    assert not running(seconds)


def test_files_are_sent_once(way: SshTransport, tmp_path: Path) -> None:
    """By what is in them, for the owner alone; and again where they were changed."""
    file = tmp_path / "file"
    file.write_text("one")
    there = Path(way.push(file, "name"))
    assert there.read_text() == "one" and there.stat().st_mode & 0o777 == 0o700
    assert there.parent.stat().st_mode & 0o777 == 0o700
    before = there.stat().st_mtime_ns
    same = tmp_path / "same"
    same.write_text("one")
    assert way.push(same, "name") == str(there) and there.stat().st_mtime_ns == before
    file.write_text("two")
    assert Path(way.push(file, "name")).read_text() == "two"
    way.pull(str(there), tmp_path / "back")
    assert (tmp_path / "back").read_text() == "one"
    assert not list(there.parent.glob("*.new"))


def test_what_was_used_longest_ago_goes(
    way: SshTransport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("canao.device.transports.remote._ROOM", 50)
    for number in range(6):
        file = tmp_path / str(number)
        file.write_text(str(number) * 20)
        way.push(file, f"file{number}")
    left = {path.name[-5:] for path in Path(way.folder).iterdir()} - {"nning"}
    assert left == {"file2", "file3", "file4", "file5"}


def test_nothing_is_left(server: SshServer, tmp_path: Path) -> None:
    """Not by a process that ends, and not for long by one that was killed."""
    code = (
        "import os; from canao.device.bench import connect; "
        "from canao.device.transports.ssh import SshTransport; "
        f"d = connect(SshTransport({server.address!r})); print(d.transport.folder, "
        "flush=True); os.environ.get('KILLED') and os.kill(os.getpid(), 9)"
    )
    folders = []
    for more in ({}, {"KILLED": "1"}):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                              env=os.environ | more)  # fmt: skip
        assert done.returncode == (-9 if more else 0), done.stderr
        folders.append(Path(done.stdout.strip()))
    assert not folders[0].exists() and folders[1].exists()
    young = SshTransport(server.address)
    assert young.folder and folders[1].exists()
    old = time.time() - 2 * 86400
    os.utime(folders[1], (old, old))
    other = SshTransport(server.address)
    assert other.folder and not folders[1].exists() and Path(young.folder).exists()
    young.close()
    other.close()


def test_a_connection_that_breaks(
    server: SshServer, way: SshTransport, encoder: Artifact, tmp_path: Path
) -> None:
    """One clear line; the next call connects again, and finds what lies there."""
    device = connect(way)
    file = tmp_path / "file"
    file.write_text("x")
    there = way.push(file, "name")
    threading.Timer(0.5, server.stop).start()
    with pytest.raises(OSError, match=r"the connection was lost"):
        way.run(["sleep", "30"], 20)
    got = device.measure(encoder, MeasureConfig(length=8, samples=1))
    assert isinstance(got, Failure) and "\n" not in got.message
    assert got.message.startswith(f"{encoder.path}") or way.name in got.message
    server.start()
    assert way.run(["echo", "again"], 20).stdout == "again\n"
    before = Path(there).stat().st_mtime_ns
    assert way.push(file, "name") == there and Path(there).stat().st_mtime_ns == before


def test_nobody_listens(server: SshServer) -> None:
    server.stop()
    try:
        with pytest.raises(DeviceError, match=r"does not answer .*; look after the connection"):
            connect(SshTransport(server.address))
    finally:
        server.start()


def test_an_unknown_host_key(server: SshServer) -> None:
    server.known_hosts.write_text("")
    by_hand = f"`ssh -p {server.port} {USER}@127.0.0.1`"
    with pytest.raises(DeviceError, match=r"not in known_hosts.*connect once") as caught:
        connect(SshTransport(server.address))
    assert by_hand in str(caught.value)


def test_no_key_that_is_taken(
    server: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh/known_hosts").write_text(server.known_hosts.read_text())
    at_home(tmp_path, monkeypatch)
    with pytest.raises(DeviceError, match=r"takes none of your keys.*ssh-copy-id -p"):
        connect(SshTransport(server.address))


def test_settings_of_ssh(server: SshServer) -> None:
    """A name that ~/.ssh/config has; what the text says goes before what is in there."""
    config = server.home / ".ssh/config"
    config.write_text(
        f"Host board\n  HostName 127.0.0.1\n  Port {server.port}\n  User {USER}\n"
        f"Host other *.lan\n  HostName 127.0.0.1\n  Port 1\n  User {USER}\n"
        "Host *\n  Compression no\n"
    )
    assert list(hosts()) == ["board", "other"]
    for text in ("board", f"other:{server.port}", f"{USER}@other:{server.port}"):
        way = SshTransport(text)
        assert way.run(["echo", "yes"], 20).stdout == "yes\n" and way.name == f"ssh:{text}"
        way.close()
    config.write_text("Port many\n")
    with pytest.raises(DeviceError, match=r"correct ~/\.ssh/config"):
        SshTransport("board").run(["true"], 20)


@pytest.mark.parametrize(
    "text",
    ["", "@", "-oProxyCommand=x", "a b", "user@", "host:", "host:0", "host:99999", "h,i", "[::1"],
)
def test_no_address(text: str) -> None:
    with pytest.raises(InputError, match=r"give \[USER@\]HOST\[:PORT\]"):
        SshTransport(text)


def test_the_package_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncssh", None)
    with pytest.raises(InputError, match=r"pip install 'canao\[ssh\]'"):
        SshTransport("board")

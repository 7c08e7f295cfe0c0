"""Programs that are built once and kept on disk: found again, and never trusted."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from canao.cache.place import cache_directory
from canao.emit.opencl.probe import Probes
from tests.runtime.conftest import Load
from tests.runtime.tiny import PROBES, Opened, Tiny, expected

pytestmark = [pytest.mark.as_shipped, pytest.mark.usefixtures("device")]

HEAD = struct.Struct("<8s6Q")
NAMED = "?" * 32 + ".bin"


@pytest.fixture
def kept(environment: Path, fresh: Load, weights: Path) -> Path:
    """The file of a program that was built."""
    open_and_run(fresh, weights)
    (file,) = environment.iterdir()
    return file


def open_and_run(
    fresh: Load, weights: Path, tiny: Tiny = Tiny(), probes: Probes = Probes(())  # noqa: B008
) -> None:
    """Without probes, which would be a second program."""
    model = Opened(fresh(tiny.but(probes=probes)), weights)
    assert (model.run([3, 4])[0] == expected([3, 4])[0]).all()
    model.close()


def test_a_file_says_what_it_is_of(kept: Path, environment: Path) -> None:
    assert environment.stat().st_mode & 0o777 == 0o700 and kept.stat().st_mode & 0o777 == 0o600
    content = kept.read_bytes()
    magic, a, b, _, _, identity, binary = HEAD.unpack_from(content)
    assert magic == b"CANAOCL1" and kept.name == f"{a:016x}{b:016x}.bin"
    assert HEAD.size + identity + binary == len(content)
    name, driver, platform, version, end = content[HEAD.size :][:identity].split(b"\n")
    assert name and driver and platform and version.startswith(b"OpenCL ") and end == b"\0"


def test_it_is_used_and_stays(kept: Path, fresh: Load, weights: Path) -> None:
    before, content = kept.stat(), kept.read_bytes()
    open_and_run(fresh, weights)
    assert (kept.stat().st_ino, kept.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert kept.read_bytes() == content


def test_another_program_is_another_file(
    kept: Path, environment: Path, fresh: Load, weights: Path
) -> None:
    open_and_run(fresh, weights, Tiny(options="-cl-std=CL1.2 -DMORE"))
    open_and_run(fresh, weights, Tiny(Tiny().kernels + "\n"))
    assert len(list(environment.iterdir())) == 3
    open_and_run(fresh, weights, Tiny(local=4))  # which the program does not know
    assert len(list(environment.iterdir())) == 3


@pytest.mark.parametrize("damage", [
    lambda c: b"", lambda c: c[:20], lambda c: c[:-1], lambda c: c + b"x", lambda c: b"x" + c[1:],
    lambda c: c[:8] + b"\0" + c[9:], lambda c: c[:HEAD.size + 3] + b"~" + c[HEAD.size + 4:],
    lambda c: c[:-9] + bytes([c[-9] ^ 1]) + c[-8:],
    lambda c: c[:40] + b"\xff" * 16 + c[56:],
    lambda c: os.urandom(len(c)),
])  # fmt: skip
def test_a_damaged_file_is_replaced(damage, kept: Path, fresh: Load, weights: Path) -> None:
    content = kept.read_bytes()
    kept.write_bytes(damage(content))
    before = kept.stat().st_ino
    open_and_run(fresh, weights)
    assert kept.read_bytes()[:24] == content[:24] and kept.stat().st_ino != before  # its key
    assert not list(kept.parent.glob("*.bin.*"))


def test_a_file_that_is_not_the_users_own(kept: Path, fresh: Load, weights: Path) -> None:
    if os.geteuid() == 0:
        os.chown(kept, 12345, -1)
        before = kept.stat().st_ino
        open_and_run(fresh, weights)
        assert kept.stat().st_ino != before and kept.stat().st_uid == 0
    kept.chmod(0o622)
    open_and_run(fresh, weights)
    assert kept.stat().st_mode & 0o777 == 0o600
    elsewhere = kept.with_name("elsewhere")
    kept.rename(elsewhere)
    kept.symlink_to(elsewhere)
    open_and_run(fresh, weights)
    assert kept.is_file() and not kept.is_symlink()
    kept.unlink()
    os.mkfifo(kept)  # which nobody waits for
    open_and_run(fresh, weights)
    assert kept.is_file()


def test_those_used_longest_ago_go(kept: Path, fresh: Load, weights: Path) -> None:
    """Beyond 256 of them; files of another kind stay."""
    others = [kept.with_name(name) for name in ("other.txt", "weights.bin", "0" * 31 + ".bin")]
    for other in others:
        other.write_text("x")
        os.utime(other, (1, 1))
    for i in range(270):
        one = kept.with_name(f"{i:032x}.bin")
        one.write_bytes(b"x")
        os.utime(one, (1000 + i, 1000 + i))
    os.utime(kept, (5, 5))
    open_and_run(fresh, weights)  # which uses it
    assert kept.stat().st_atime > 1270 and len(list(kept.parent.glob(NAMED))) == 271
    open_and_run(fresh, weights, Tiny(Tiny().kernels + "\n"))
    left = list(kept.parent.glob(NAMED))
    assert len(left) == 256 and kept in left and all(other.exists() for other in others)
    assert {one.name for one in left}.isdisjoint(f"{i:032x}.bin" for i in range(16))


def test_models_share_the_program_of_the_probes(
    environment: Path, fresh: Load, weights: Path
) -> None:
    for count, more in enumerate(("", "\n", "\n\n"), 2):
        open_and_run(fresh, weights, Tiny(Tiny().kernels + more), PROBES)
        assert len(list(environment.iterdir())) == count


def test_a_folder_that_cannot_be_written(
    environment: Path, fresh: Load, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment.write_text("a file")
    long = Path("/" + "a" * 3000)
    for place in (environment, environment / "below", Path("/proc/nowhere"), long):
        monkeypatch.setenv("CANAO_OPENCL_CACHE", str(place))
        open_and_run(fresh, weights)
    assert environment.read_text() == "a file"


def test_where_they_are_kept(
    tmp_path: Path, fresh: Load, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the named folder; in that of the user's caches; or nowhere."""
    monkeypatch.setenv("CANAO_CACHE", str(cache_directory()))  # stays where it is
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.setenv("CANAO_OPENCL_CACHE", "")
    open_and_run(fresh, weights)
    assert not (tmp_path / "home").exists() and not (tmp_path / "caches/canao/opencl").exists()
    monkeypatch.delenv("CANAO_OPENCL_CACHE")
    open_and_run(fresh, weights)
    assert len(list((tmp_path / "caches/canao/opencl").iterdir())) == 1
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    open_and_run(fresh, weights)
    assert len(list((tmp_path / "home/.cache/canao/opencl").iterdir())) == 1

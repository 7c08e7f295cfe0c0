"""The build cache: what is run is what was built, nobody else writes to it, and it is bounded."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from canao.artifact.temporary import WorkingDirectory
from canao.build import Toolchain, build_program, get_toolchain
from canao.cache.entries import builds
from canao.cache.locks import TOOLCHAIN_LOCK, locked
from canao.cache.place import own_directory, parse_size
from canao.cache.prune import TOOLCHAIN, prune, usage
from canao.cli.app import main
from canao.errors import InputError, ToolchainError
from canao.target import get_target

pytestmark = pytest.mark.as_shipped

HOST = get_target()
WAIT_S = 60


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own for each test."""
    monkeypatch.setenv("CANAO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("CANAO_CACHE_MAX", raising=False)
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def compiler() -> Toolchain:
    """One that takes a moment, where there is one."""
    return get_toolchain(next((c for c in ("gcc", "clang") if shutil.which(c)), "zig"))


def program(number: int, compiler: Toolchain) -> Path:
    return build_program({"main.c": f"int main(void) {{ return {number}; }}\n"}, HOST, compiler)


def says(path: Path) -> int:
    return subprocess.run([str(path)]).returncode


ELSEWHERE = """
import sys
from canao.build import build_program, get_toolchain
from canao.target import get_target
for number in map(int, sys.argv[2:]):
    text = f"int main(void) {{ return {number}; }}\\n"
    print(build_program({"main.c": text}, get_target(), get_toolchain(sys.argv[1])))
"""


def built_elsewhere(compiler: Toolchain, *numbers: int) -> list[Path]:
    """Programs that a process has built which is gone."""
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, compiler.name, *map(str, numbers)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [Path(line) for line in done.stdout.splitlines()]


def test_what_was_built_is_used_again(compiler: Toolchain) -> None:
    first = program(3, compiler)
    made = first.stat().st_mtime_ns
    assert program(3, compiler) == first and first.stat().st_mtime_ns == made and says(first) == 3


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


DAMAGES: dict[str, Callable[[Path], None]] = {
    "empty": empty, "cut": cut, "gone": Path.unlink,
    "a directory": lambda path: (path.unlink(), path.mkdir()),
    "garbage": lambda path: path.write_bytes(b'{"product": 1}' * 1000),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ("program", "digest.json"))
def test_damaged_entries_are_built_again(compiler: Toolchain, file: str, damage: str) -> None:
    path = program(3, compiler)
    DAMAGES[damage](path.with_name(file))
    assert program(3, compiler) == path and says(path) == 3
    assert sorted(p.name for p in path.parent.iterdir()) == ["digest.json", "program"]


def test_a_planted_program_is_not_run(compiler: Toolchain, tmp_path: Path) -> None:
    path = program(3, compiler)
    path.write_text(f"#!/bin/sh\ntouch {tmp_path}/was-run\n")
    path.chmod(0o755)
    assert says(program(3, compiler)) == 3
    assert not (tmp_path / "was-run").exists()


def test_an_entry_that_was_planted_whole(compiler: Toolchain, cache: Path) -> None:
    """In the place of one that is not built yet, without the digest."""
    place = program(3, compiler).parent
    (place / "digest.json").unlink()
    (place / "program").write_text("#!/bin/sh\nexit 9\n")
    assert says(program(3, compiler)) == 3


PLACES = ("", "build", "build/KEY", "build/KEY/program", "build/KEY/digest.json")


@pytest.mark.parametrize("mode", (0o777, 0o775, 0o722))
@pytest.mark.parametrize("place", PLACES)
def test_what_others_can_write_to_is_refused(
    compiler: Toolchain, cache: Path, place: str, mode: int
) -> None:
    key = program(3, compiler).parent.name
    path = cache / place.replace("KEY", key)
    path.chmod(mode)
    with pytest.raises(ToolchainError, match=r"others may write.*chmod -R go-w.*CANAO_CACHE") as e:
        program(3, compiler)
    assert str(path) in str(e.value) and "\n" not in str(e.value)
    path.chmod(0o700)
    assert says(program(3, compiler)) == 3


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("place", PLACES)
def test_what_belongs_to_others_is_refused(compiler: Toolchain, cache: Path, place: str) -> None:
    key = program(3, compiler).parent.name
    os.chown(cache / place.replace("KEY", key), 65534, -1)
    with pytest.raises(ToolchainError, match=r"another user \(number 65534\).*CANAO_CACHE"):
        program(3, compiler)


@pytest.mark.parametrize("place", PLACES[1:])
def test_links_are_refused(compiler: Toolchain, cache: Path, tmp_path: Path, place: str) -> None:
    key = program(3, compiler).parent.name
    path = cache / place.replace("KEY", key)
    path.rename(tmp_path / "moved")
    path.symlink_to(tmp_path / "moved")
    with pytest.raises(ToolchainError, match="neither a file nor a directory; remove it"):
        program(3, compiler)


@pytest.mark.parametrize("mask", (0o000, 0o002, 0o022, 0o077))
def test_any_umask_will_do(compiler: Toolchain, mask: int) -> None:
    before = os.umask(mask)
    try:
        assert says(program(3, compiler)) == says(program(3, compiler)) == 3
    finally:
        os.umask(before)


def test_below_a_directory_such_as_tmp(compiler: Toolchain, cache: Path) -> None:
    """Others may add names to it, but not replace those that are there."""
    cache.mkdir()
    cache.chmod(0o1777)
    assert says(program(3, compiler)) == 3
    assert (cache / "build").stat().st_mode & 0o777 == 0o700


def test_a_cache_that_can_only_be_read(compiler: Toolchain, cache: Path) -> None:
    (cache / "file").parent.mkdir()
    (cache / "build").write_text("")
    with pytest.raises(ToolchainError, match="CANAO_CACHE"):
        program(3, compiler)


def test_what_was_used_longest_ago_goes_first(compiler: Toolchain) -> None:
    paths = built_elsewhere(compiler, 1, 2, 3, 4)
    for age, path in zip((40, 30, 20, 10), paths, strict=True):
        os.utime(path.parent, (time.time() - age,) * 2)
    built_elsewhere(compiler, 1)  # used again
    each = usage().entries[0].bytes
    assert [e.key for e in usage().entries] == [paths[i].parent.name for i in (1, 2, 3, 0)]
    assert prune(2 * each + usage().toolchain_bytes) == 2 * each
    assert [path.exists() for path in paths] == [True, False, False, True]


def test_what_is_in_use_stays(compiler: Toolchain, cache: Path) -> None:
    mine = program(1, compiler)
    (gone,) = built_elsewhere(compiler, 2)
    assert [e.in_use for e in usage().entries] == [True, False]
    prune(0)
    assert mine.exists() and not gone.exists() and says(mine) == 1
    assert usage().bytes <= usage().entries[0].bytes + 8192


def test_another_process_keeps_what_it_uses(compiler: Toolchain) -> None:
    script = ELSEWHERE + "\nsys.stdout.flush(); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", script, compiler.name, "5"], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True,
    ) as other:  # fmt: skip
        path = Path(other.stdout.readline().strip())
        prune(0)
        assert path.exists()
        other.kill()  # it cannot say that it is done
        other.wait()
        prune(0)
        assert not path.exists()
    assert not list(builds().glob(".in-use-*"))


def test_each_build_keeps_the_bound(
    compiler: Toolchain, monkeypatch: pytest.MonkeyPatch
) -> None:
    built_elsewhere(compiler, 1)
    each = usage().entries[0].bytes
    monkeypatch.setenv("CANAO_CACHE_MAX", str(2 * each + usage().toolchain_bytes + 100))
    for number in range(2, 6):
        built_elsewhere(compiler, number)
    assert len(usage().entries) == 2 and usage().bytes <= usage().limit


def test_the_toolchains_files_are_bounded_too(compiler: Toolchain) -> None:
    """And stay while something is compiled with them."""
    (own_directory(TOOLCHAIN) / "o").mkdir()
    (own_directory(TOOLCHAIN) / "o" / "libc").write_bytes(b"x" * 100_000)
    assert usage().toolchain_bytes >= 100_000
    prune(1 << 20)
    assert usage().toolchain_bytes >= 100_000
    with locked(builds(), alone=False, name=TOOLCHAIN_LOCK):
        prune(0)
        assert usage().toolchain_bytes >= 100_000
    prune(0)
    assert usage().toolchain_bytes < 10_000


def test_the_toolchains_files_stay_where_builds_in_use_take_more(compiler: Toolchain) -> None:
    """Nothing would be within the bound without them, and each build would make them again."""
    (own_directory(TOOLCHAIN) / "libc").write_bytes(b"x" * 1000)
    mine = program(1, compiler)
    prune(usage().entries[0].bytes - 1)
    assert mine.exists() and (own_directory(TOOLCHAIN) / "libc").exists()


HANGING = """
import sys
from canao.build import Toolchain, build_program
from canao.target import get_target
hanging = Toolchain("hanging", ("/bin/sh", "-c", "exec sleep 600 #"), "1")
print("ready", flush=True)
build_program({"main.c": ""}, get_target(), hanging)
"""


def test_a_killed_build_leaves_nothing(compiler: Toolchain) -> None:
    with subprocess.Popen([sys.executable, "-c", HANGING], stdout=subprocess.PIPE) as build:
        begun = time.monotonic()
        while not (left := list(builds().glob(".building-*/main.c"))):
            assert time.monotonic() - begun < WAIT_S
            time.sleep(0.02)
        program(1, compiler)
        assert left[0].exists(), "it is under way"
        children = Path(f"/proc/{build.pid}/task/{build.pid}/children").read_text().split()
        build.kill()
        build.wait()
        for child in children:
            os.kill(int(child), signal.SIGKILL)
    program(2, compiler)
    assert not list(builds().glob(".building-*"))
    assert not [p for p in builds().iterdir() if p.name.startswith((".damaged", ".removed"))]


def test_processes_that_build_the_same_and_one_that_prunes(compiler: Toolchain) -> None:
    script = ELSEWHERE + (
        "import subprocess\n"
        "from canao.cache.prune import prune\n"
        "for turn in range(8):\n"
        "    for number in (1, 2, 3):\n"
        "        text = f'int main(void) {{ return {number}; }}\\n'\n"
        "        path = build_program({'main.c': text}, get_target(), get_toolchain(sys.argv[1]))\n"
        "        assert subprocess.run([str(path)]).returncode == number\n"
        "    prune(0)\n"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", script, compiler.name], stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    while any(process.poll() is None for process in running):
        prune(0)
    assert [process.communicate()[1] for process in running] == [b""] * 3
    assert [process.returncode for process in running] == [0] * 3


def test_no_room(compiler: Toolchain, cache: Path) -> None:
    cache.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k,mode=700", "tmpfs", str(cache)],
        capture_output=True,
    )
    if mounted.returncode:
        pytest.skip("no permission to mount a small file system")
    try:
        with pytest.raises(ToolchainError, match=r"no space|cannot write|failed"):
            program(1, compiler)
        assert not list(builds().glob(".building-*"))
    finally:
        subprocess.run(["umount", str(cache)], check=True)


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("7", 7), ("1k", 1000), ("1.5K", 1500), ("2 MB", 2_000_000), ("3GiB", 3 << 30)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text, "x") == size


@pytest.mark.parametrize("text", ["", "-1", "1X", "M", "1e9", "nan", "٣", "1K1", "0x10"])
def test_sizes_that_are_none(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"--max-size is '.*'; give bytes"):
        parse_size(text, "--max-size")
    if text:
        monkeypatch.setenv("CANAO_CACHE_MAX", text)
        with pytest.raises(InputError, match="CANAO_CACHE_MAX is"):
            usage()


@pytest.fixture
def canao(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """The command line, in this process."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["canao", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        said = capfd.readouterr()
        return subprocess.CompletedProcess(arguments, left.value.code or 0, said.out, said.err)

    return run


def test_the_command(canao, compiler: Toolchain, cache: Path) -> None:
    built_elsewhere(compiler, 1, 2, 3)
    (cache / "tuning-2.sqlite").write_bytes(b"x" * 5000)
    shown = canao("cache")
    assert shown.returncode == 0 and not shown.stderr
    for words in (str(cache), "512.0 MB", "builds     3", "CANAO_CACHE_MAX", "never pruned"):
        assert words in shown.stdout
    form = json.loads(canao("cache", "--json").stdout)
    assert form["entries"] == 3 and 5000 <= form["tuning_bytes"] < 20000
    most = form["bytes"] * 2 // 3
    pruned = json.loads(canao("cache", "--prune", "--max-size", str(most), "--json").stdout)
    assert pruned["bytes"] <= most and pruned["freed_bytes"] == form["bytes"] - pruned["bytes"]
    assert 0 < pruned["entries"] < 3
    assert "freed" in canao("cache", "--clear").stdout
    assert json.loads(canao("cache", "--json").stdout)["entries"] == 0
    assert (cache / "tuning-2.sqlite").exists()
    for wrong in (("--prune", "--clear"), ("--max-size", "1M"), ("--prune", "--max-size", "x")):
        done = canao("cache", *wrong)
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1


def test_a_working_directory_is_its_owners(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom pathlib import Path\n"
        "from canao.artifact.temporary import WorkingDirectory\n"
        "made = WorkingDirectory('work', Path(sys.argv[1]))\n"
        "print(made.path, flush=True)\nsys.stdin.read()\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True) as other:  # fmt: skip
        theirs = Path(other.stdout.readline().strip())
        (theirs / "file").write_text("x")
        with WorkingDirectory("work", tmp_path) as mine:
            assert mine != theirs and theirs.exists()
        assert not mine.exists() and theirs.exists()
        other.kill()
        other.wait()
    with WorkingDirectory("other", tmp_path):
        assert theirs.exists(), "of another kind"
    with WorkingDirectory("work", tmp_path) as mine:
        assert not theirs.exists()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_forked_process_removes_nothing(tmp_path: Path) -> None:
    script = (
        "import os, sys\nfrom pathlib import Path\n"
        "from canao.artifact.temporary import WorkingDirectory\n"
        "made = WorkingDirectory('work', Path(sys.argv[1]))\n"
        "if os.fork() == 0:\n    sys.exit()\n"
        "os.wait()\nassert made.path.is_dir()\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    assert list(tmp_path.glob(".work-*")) == []

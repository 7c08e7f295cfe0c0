"""A real PostgreSQL on a free port of loopback, and Optuna's proxy in front of it, to be killed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'src'}", "OMP_NUM_THREADS": "1",
                            "GRPC_VERBOSITY": "NONE"}  # fmt: skip
_PROXY = """
import sys, warnings
warnings.simplefilter("ignore")
from optuna.storages import get_storage, run_grpc_proxy_server
from optuna.storages._rdb.storage import RDBStorage
storage = get_storage(RDBStorage(sys.argv[1], engine_kwargs={"pool_pre_ping": True}))
run_grpc_proxy_server(storage, host="127.0.0.1", port=int(sys.argv[2]))
"""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def until(condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    """Wait for a condition; fail if it does not come true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds:g} s for {what}"
        time.sleep(0.05)


class Postgres:
    """A cluster of its own, run by an ordinary user; skips the test where PostgreSQL is missing."""

    def __init__(self) -> None:
        pytest.importorskip("psycopg", reason="the extra 'workers' is not installed")
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        where = found[-1].parent if found else None
        if where is None and shutil.which("initdb"):
            where = Path(str(shutil.which("initdb"))).parent
        if where is None:
            pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
        self.bin, self.port = where, free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="canao-postgres-"))
        self.user = "nobody" if os.geteuid() == 0 else None  # PostgreSQL refuses root
        if self.user is not None:
            shutil.chown(self.folder, self.user)
        self.process: subprocess.Popen[bytes] | None = None
        made = subprocess.run(
            [self.bin / "initdb", "-D", self.folder / "data", "-U", "canao", "-A", "trust",
             "--no-sync", "--locale=C", "-E", "UTF8"],
            capture_output=True, user=self.user, cwd=self.folder,
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        self.start()

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://canao@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                [self.bin / "postgres", "-D", self.folder / "data", "-p", str(self.port),
                 "-h", "127.0.0.1", "-k", "", "-F"],
                stdout=log, stderr=log, user=self.user, cwd=self.folder, start_new_session=True,
            )  # fmt: skip
        until(self.answers, "PostgreSQL to start")

    def answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.url(), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def database(self, name: str) -> str:
        """A new, empty database, and its URL."""
        import psycopg

        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return self.url(name)

    def kill(self) -> None:
        """All its processes at once, as if the power went."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        until(lambda: not self.answers(), "PostgreSQL to be gone")
        (self.folder / "data" / "postmaster.pid").unlink(missing_ok=True)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGQUIT)
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


class Proxy:
    """Optuna's gRPC proxy in front of a database."""

    def __init__(self, database: str) -> None:
        pytest.importorskip("grpc", reason="the extra 'workers' is not installed")
        self.database = database.replace("postgresql://", "postgresql+psycopg://")
        self.port = free_port()
        self.start()

    @property
    def url(self) -> str:
        return f"grpc://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _PROXY, self.database, str(self.port)],
            env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        until(self.answers, "the proxy to start")

    def answers(self) -> bool:
        with socket.socket() as tried:
            return tried.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    close = kill

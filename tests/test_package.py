"""CANAO as a package: what a wheel and an sdist hold, and that a wheel needs no checkout."""

from __future__ import annotations

import ast
import email
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import canao
from tests.heads import save_model
from tests.oracle import FLOAT32
from tests.train.tiny_bert import save_tiny

pytestmark = pytest.mark.as_shipped

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src/canao"
BUILD_SDIST = "import sys, setuptools.build_meta as b; b.build_sdist(sys.argv[1])"
# Left by tools in a checkout, and no part of the project.
IGNORED = shutil.ignore_patterns("__pycache__", ".*", "*.egg-info", "build", "runs", "results")
# What takes the demo seconds: nothing is learned in so few steps.
QUICK = ("--trials", "1", "--quick-steps", "2", "--epochs", "1", "--teacher-epochs", "1")

# The command, which waits for no quieter moment to measure in: the other tests leave none. The half
# minute of a certificate passes at once.
WITHOUT_PAUSES = (
    "import time; time.sleep = lambda s: None; from canao.device import bench, null; "
    "bench.WallTimer = null.ScriptedTimer; from canao.cli.entry import main; main()"
)


def sources() -> set[str]:
    """The files of the package, as a wheel names them."""
    found = (p for p in PACKAGE.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return {f"canao/{path.relative_to(PACKAGE).as_posix()}" for path in found}


def pip(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def build_wheel(tree: Path, out: Path) -> Path:
    pip("wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", out, tree)
    return next(out.glob("canao-*.whl"))


def package_files(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    return {name for name in names if not re.match(r"canao-[^/]*\.dist-info/", name)}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout, as building leaves files beside the sources."""
    folder = tmp_path_factory.mktemp("tree") / "canao"
    shutil.copytree(ROOT, folder, ignore=IGNORED)
    return folder


@pytest.fixture(scope="module")
def wheel(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tree, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel, and the dependencies of this one without its canao."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    pip("--python", folder / "bin/python", "install", "--no-deps", "--no-index", wheel)
    # Of a folder that a .pth file names, the .pth files are not read: not the one of this checkout.
    site = next(folder.glob("lib/python*/site-packages"))
    rest = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (site / "dependencies.pth").write_text("\n".join(rest) + "\n")
    return folder


def installed(environment: Path, command: str, *arguments: str | Path, cwd: Path) -> str:
    """What a command of the environment prints, run in a folder outside of the checkout."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [environment / "bin" / command, *arguments], cwd=cwd, env=clean, capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_wheel_has_every_file_of_the_package(wheel: Path) -> None:
    assert package_files(wheel) == sources()
    assert {"canao/py.typed", "canao/runtime/model.c", "canao/commands/train.tsv"} <= sources()


def test_an_sdist_builds_the_same_wheel(tree: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", BUILD_SDIST, tmp_path], cwd=tree, check=True,
                   capture_output=True)  # fmt: skip
    with tarfile.open(next(tmp_path.glob("canao-*.tar.gz"))) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    unpacked = next((tmp_path / "unpacked").iterdir())
    assert package_files(build_wheel(unpacked, tmp_path / "wheel")) == sources()
    for name in ("README.md", "ARCHITECTURE.md", "Makefile", "docs/hub.md", "tests/conftest.py",
                 "examples/spoken_commands.py"):  # fmt: skip
        assert (unpacked / name).is_file(), name
    assert not list(unpacked.rglob("__pycache__"))


def test_what_the_package_says_of_itself(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        about = email.message_from_bytes(archive.read(name))
    assert about["Name"] == "canao" and about["Summary"] and about["Requires-Python"] == ">=3.10"
    assert about["Description-Content-Type"] == "text/markdown"
    assert {"demo", "onnx", "dev"} <= set(about.get_all("Provides-Extra"))
    assert "Typing :: Typed" in about.get_all("Classifier")


def imported() -> Iterator[tuple[str, str]]:
    """(file, package) of every import of something that is not in the standard library."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for top in {name.partition(".")[0] for name in names}:
                if top != "canao" and top not in sys.stdlib_module_names:
                    yield str(path.relative_to(PACKAGE)), top


def test_every_package_that_is_imported_is_a_dependency(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        needed = email.message_from_bytes(archive.read(name)).get_all("Requires-Dist")
    named = {_plain(re.split(r"[^\w.-]", need, maxsplit=1)[0]) for need in needed
             if 'extra == "dev"' not in need}  # fmt: skip
    of = packages_distributions()
    missing = {
        f"{file}: {top}" for file, top in imported()
        if top in of and not named & {_plain(found) for found in of[top]}
    }  # fmt: skip
    assert missing == set()


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_a_model_compiles_and_runs_without_the_checkout(environment: Path, tmp_path: Path) -> None:
    import transformers

    model, tokenizer = save_model("ForSequenceClassification", tmp_path / "model")
    script = (
        "import canao, json; compiled = canao.compile('model', 'out'); "
        "print(json.dumps([canao.__file__, compiled.predict('wake me at seven').scores]))"
    )
    place, found = json.loads(installed(environment, "python", "-c", script, cwd=tmp_path))
    assert Path(place).is_relative_to(environment)
    assert not Path(canao.__file__).is_relative_to(environment)
    classify = transformers.pipeline(
        "text-classification", model=model, tokenizer=tokenizer, top_k=None
    )
    want = {row["label"]: row["score"] for row in classify(["wake me at seven"])[0]}
    assert dict(found) == pytest.approx(want, abs=FLOAT32)
    assert (tmp_path / "out/model.so").is_file()


def test_the_demo_runs_without_the_checkout(environment: Path, tmp_path: Path) -> None:
    save_tiny(tmp_path / "teacher", max_position_embeddings=32, num_hidden_layers=2)
    assert "demo" in installed(environment, "canao", "--help", cwd=tmp_path)
    said = installed(
        environment, "python", "-c", WITHOUT_PAUSES, "demo", "--out", "run", "--teacher", "teacher",
        "--budget-ms", "50", *QUICK, cwd=tmp_path,
    )  # fmt: skip
    assert re.search(r"^student +L[12] ", said, re.MULTILINE) and "budget 50 ms" in said
    assert said.count("$ canao run run/artifact ") == 3 and "done in " in said
    lines = (PACKAGE / "commands/train.tsv").read_text(encoding="ascii").splitlines()[1:]
    found = re.findall(r"^ +0\.\d+ +(\w+)$", said, re.MULTILINE)
    assert len(found) == 9 and set(found) <= {line.split("\t")[1] for line in lines}
    certificate = json.loads((tmp_path / "run/artifact/certificate.json").read_text())
    assert certificate["holds"] is True

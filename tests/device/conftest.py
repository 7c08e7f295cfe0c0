"""Models that every device measures: an encoder, a decoder, one that crashes."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from canao.artifact.directory import Artifact
from canao.build import build_library
from canao.compiler.loading import load_model
from canao.compiler.pipeline import compile_graph, compile_model
from canao.lower.scheduling import default_plans
from canao.target import get_target
from tests.compiler.models import classifier, decoder

_TRAP = "\n__attribute__((constructor)) static void crash(void) { __builtin_trap(); }\n"
_MEASURED = ("-O3",)  # thousands of times


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Takes up to 512 tokens."""
    out = tmp_path_factory.mktemp("encoder") / "out"
    return compile_model(classifier("small"), out, build_flags=_MEASURED)


@pytest.fixture(scope="session")
def continuing(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A decoder of up to 64 tokens."""
    model = decoder(layers=1, max_length=64)
    out = tmp_path_factory.mktemp("decoder") / "out"
    return compile_model(model, out, build_flags=_MEASURED)


@pytest.fixture(scope="session")
def crashing(encoder: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The encoder, but its library ends the process that opens it."""
    host = get_target()
    source = compile_graph(load_model(classifier("small"))[1], host, planner=default_plans).source
    library = build_library([replace(source, code=source.code + _TRAP)])
    folder = tmp_path_factory.mktemp("crashing") / "out"
    shutil.copytree(encoder.path, folder)
    shutil.copyfile(library, folder / "model.so")
    return Artifact.load(folder)


@pytest.fixture(scope="session")
def foreign(encoder: Artifact) -> Artifact:
    """The encoder, as if it were built for a kind of machine that this is not."""
    arm = get_target().triple.startswith("aarch64")
    other = get_target("x86_64-linux" if arm else "aarch64-linux")
    target = {"name": other.name, "isa": other.isa, "triple": other.triple}
    return replace(encoder, manifest=encoder.manifest | {"target": target})

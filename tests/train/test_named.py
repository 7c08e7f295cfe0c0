"""Data sets by name, from a server on loopback that speaks the Hub's interface."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.hub_server import GRANTED, Hub

SOURCES = Path(__file__).parents[2] / "src"
installed = pytest.mark.skipif(
    find_spec("datasets") is None, reason="the package `datasets` is not installed"
)
LOAD = """
import json, sys
from canao.errors import InputError
from canao.train.data import load_data
for asked in json.loads(sys.argv[1]):
    try:
        data = load_data(asked.pop("name"), **asked)
        print(json.dumps({"train": [[e.text, e.pair, e.label] for e in data.train],
                          "dev": [[e.text, e.pair, e.label] for e in data.dev],
                          "labels": data.labels, "columns": data.columns, "told": data.told,
                          "source": data.source, "name": data.name}))
    except InputError as error:
        print(json.dumps({"error": str(error)}))
"""


def table(labels: list[object], names: str = "sentence1,sentence2,label,idx") -> str:
    lines = [f"text {i},other {i},{label},{i}" for i, label in enumerate(labels)]
    return "\n".join([names, *lines]) + "\n"


GLUE = {
    "mrpc/train.csv": table([0, 1, 1] * 7),
    "mrpc/validation.csv": table([1, 0, -1, 1]),
    "mrpc/test.csv": table([-1] * 5),
    "stsb/train.csv": table([i / 4 for i in range(20)]),
    "stsb/test.csv": table([-1.0] * 5),
    "README.md": """---
configs:
- config_name: mrpc
  data_files:
  - {split: train, path: mrpc/train.csv}
  - {split: validation, path: mrpc/validation.csv}
  - {split: test, path: mrpc/test.csv}
- config_name: stsb
  data_files:
  - {split: train, path: stsb/train.csv}
  - {split: test, path: stsb/test.csv}
dataset_info:
- config_name: mrpc
  features:
  - {name: sentence1, dtype: string}
  - {name: sentence2, dtype: string}
  - name: label
    dtype:
      class_label:
        names:
          '0': not_equivalent
          '1': equivalent
  - {name: idx, dtype: int32}
---
""",
}


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with Hub() as server:
        server.add("dataset", "nyu-mll/glue", GLUE, alias="glue")
        lines = [{"question": f"is it {i}?", "passage": f"it is {i}", "label": i % 2,
                  "idx": {"q": i}} for i in range(20)]  # fmt: skip
        text = "".join(json.dumps(line) + "\n" for line in lines)
        server.add("dataset", "some/boolq", {"train.jsonl": text}, refs=("main", "v1"))
        tricky = text.replace('"idx": {"q"', '"choices": {"q"')
        server.add("dataset", "some/choices", {"train.jsonl": tricky})
        server.add("dataset", "some/unsplit", {"test.csv": table([0, 1] * 5)})
        server.add("dataset", "some/gated", {"train.csv": table([0, 1] * 9)}, gated=True)
        server.add("dataset", "some/private", {"train.csv": table([0, 1] * 9)}, private=True)
        script = "open('ran', 'w').close()"
        server.add("dataset", "some/script", {"script.py": script, "README.md": "none"})
        yield server


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hub")


def load(hub: Hub, home: Path, *asked: Any, token: str | None = None, **more: str) -> list[Any]:
    """What `load_data` gives, in a process that knows no other Hub."""
    wanted = [{"name": one} if isinstance(one, str) else one for one in asked]
    environment = hub.environment(home, token, **{"PYTHONPATH": str(SOURCES)} | more)
    done = subprocess.run(
        [sys.executable, "-c", LOAD, json.dumps(wanted)], env=environment, cwd=home,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0 and not done.stderr, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(asked)
    return found


@installed
def test_a_data_set_is_read_as_files_are(hub: Hub, home: Path) -> None:
    mrpc, boolq, stsb = load(
        hub, home, "glue/mrpc", {"name": "some/boolq", "revision": "v1"}, "nyu-mll/glue/stsb"
    )
    assert mrpc["labels"] == ["not_equivalent", "equivalent"]  # in the data set's own order
    assert mrpc["train"][:2] == [["text 0", "other 0", 0], ["text 1", "other 1", 1]]
    assert [label for _, _, label in mrpc["dev"]] == [1, 0, 1] and mrpc["name"] == "mrpc"
    commit = hub.repos["dataset", "nyu-mll/glue"].refs["main"]
    assert mrpc["source"] == f"nyu-mll/glue mrpc at {commit}"
    told = " ".join(mrpc["told"])
    assert "1 example without a label left out" in told and "splits that are not used: test" in told
    assert "'idx' (it numbers the examples)" in told
    assert boolq["columns"] == ["question", "passage"]
    # Its test set has no values, so a tenth of the training examples is held out.
    assert stsb["labels"] == [] and len(stsb["train"]) == 18 and len(stsb["dev"]) == 2


@installed
def test_what_cannot_be_had_is_told_in_a_line(hub: Hub, home: Path) -> None:
    asked = {
        "nyu-mll/glue": "has several configurations, give one of them, as nyu-mll/glue/mrpc",
        "glue/none": "no configuration 'none' among mrpc, stsb",
        "some/none": "no such file or directory here, and no data set of that name",
        "some/private": "unless it is private; check the name, or log in",
        "some/gated": "is gated on the Hub; ask for access at",
        "some/script": "found script.py); export it to a file",
        "some/unsplit": "has no split 'train', only test",
        "some/choices": "'choices' has text that would not be used beside question and passage",
    }
    *found, other, alone = load(
        hub, home, *asked, {"name": "some/boolq", "revision": "v2"},
        {"name": "some/unsplit", "split": False},
    )  # fmt: skip
    for (name, said), result in zip(asked.items(), found, strict=True):
        assert said in result["error"], name
        assert "\n" not in result["error"]
    assert "no such revision on the Hub" in other["error"]
    assert alone["train"] == [] and alone["dev"], "nothing is trained on, so no one asks for it"
    assert not (home / "ran").exists()
    granted = load(hub, home, "some/gated", "some/private", token=GRANTED)
    assert [result["labels"] for result in granted] == [["0", "1"]] * 2


@installed
def test_offline_only_what_was_loaded_before(hub: Hub, home: Path) -> None:
    before = load(hub, home, "glue/mrpc")[0]
    kept, none = load(hub, home, "glue/mrpc", "some/none", HF_HUB_OFFLINE="1")
    assert kept["train"] == before["train"] and kept["source"] == before["source"]
    assert "HF_HUB_OFFLINE keeps from asking the Hub" in none["error"]
    assert "cannot be reached; check the path" in load(
        hub, home, "some/other", HF_ENDPOINT="http://127.0.0.1:9"
    )[0]["error"]  # fmt: skip
    hub.broken["/api/"] = 503
    try:
        assert "says 503; try again later" in load(hub, home, "glue/mrpc")[0]["error"]
    finally:
        hub.broken.clear()


def test_without_the_package_its_name_and_the_extra_are_told(hub: Hub, home: Path) -> None:
    (home / "datasets.py").write_text("raise ImportError('not here')")
    try:
        found = load(hub, home, "glue/mrpc", PYTHONPATH=f"{home}:{SOURCES}")
    finally:
        (home / "datasets.py").unlink()
    assert found[0]["error"] == (
        "glue/mrpc: no such file or directory, and the package `datasets`, which loads data sets "
        "of the Hugging Face Hub by name, is not installed; pip install 'canao[data]' brings it"
    )

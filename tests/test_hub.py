"""Models by their names on the Hugging Face Hub, against a server on loopback: what is fetched,
what is recorded, and the line for each thing that goes wrong."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import resource
import shutil
import socket
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import canao as package
from canao.cli.app import main
from canao.errors import InputError
from canao.model.directory.hub import resolve
from canao.model.inventory.inventory import Finding, Inventory
from canao.search.options import Event
from tests.heads import save_model
from tests.hub_server import GRANTED, TOKEN, Hub, _Handler
from tests.oracle import assert_close
from tests.train.tiny_bert import save_tiny, write_task

# Resolves (name, revision) pairs in a process of its own: the library reads its settings once.
SCRIPT = """
import json, sys
from canao.errors import CanaoError
from canao.model.directory.hub import resolve
from canao.model.inventory.inventory import Finding, Inventory
for name, revision in json.loads(sys.argv[1]):
    try:
        place = resolve(name, revision, json.loads(sys.argv[2]))
        row = {"path": str(place.path), "source": place.source, "left_out": dict(place.left_out)}
    except CanaoError as error:
        row = {"error": str(error), "code": error.exit_code}
    print(json.dumps(row), flush=True)
"""
NEEDED = {"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"}
# In repositories, and never fetched.
OTHERS = {
    "README.md": "# a model", ".gitattributes": "", "pytorch_model.bin": "pickle",
    "tf_model.h5": "keras", "flax_model.msgpack": "flax", "rust_model.ot": "rust",
    "modeling_evil.py": "raise SystemExit(9)", "onnx/model.onnx": "onnx", "onnx/config.json": "{}",
    "training_args.bin": "pickle", "trainer_state.json": "{}", "model.fp16.safetensors": "half",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    save_model("ForSequenceClassification", path, id2label={0: "no", 1: "yes"})
    return path


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as running:
        yield running


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "home"


def contents(folder: Path) -> dict[str, bytes | str]:
    return {p.relative_to(folder).as_posix(): p.read_bytes()
            for p in folder.rglob("*") if p.is_file()}  # fmt: skip


def environment(hub: Hub, cache: Path, **more: str) -> dict[str, str]:
    """As a user has it, who turns no progress bars off."""
    found = hub.environment(cache, **more)
    del found["HF_HUB_DISABLE_PROGRESS_BARS"]
    return found


def resolved(
    *asked: str | tuple[str, str], env: Mapping[str, str], ignored: tuple[str, ...] = (),
    cwd: Path | None = None, **options: Any,
) -> list[dict[str, Any]]:  # fmt: skip
    """What `resolve` says of each name; it prints nothing else, least of all a bar."""
    pairs = [(one, None) if isinstance(one, str) else one for one in asked]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(pairs), json.dumps(ignored)], env=dict(env),
        cwd=cwd, capture_output=True, text=True, timeout=120, **options,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def here(hub: Hub, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings of `environment` for this process, in which the library has read its own."""
    monkeypatch.chdir(tmp_path)
    settings = {
        "ENDPOINT": hub.url, "HF_HUB_CACHE": str(cache / "hub"), "HF_HUB_OFFLINE": False,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
    }  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)


def command(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """The command line, run in this process: exit code, output, errors."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["canao", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
    printed = capfd.readouterr()
    return int(left.value.code or 0), printed.out, printed.err


def said(row: Mapping[str, Any], *words: str, code: int = 2) -> None:
    """A row that is an error of one line, with these words in it."""
    assert row.get("code") == code, row
    assert "\n" not in row["error"]
    for word in words:
        assert word in row["error"], row["error"]


def test_a_name_compiles_and_is_recorded(
    hub: Hub, folder: Path, here: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Only what is needed is fetched; the manifest and both commands name the commit; the second
    command fetches nothing again."""
    commit = hub.add("model", "org/tiny", contents(folder) | OTHERS)
    code, printed, wrong = command(capfd, "compile", "org/tiny", "-o", "out")
    assert (code, wrong) == (0, "")
    assert hub.files_asked() == NEEDED
    assert f"source    org/tiny of the Hub, commit {commit}" in printed
    source = {"hub": "org/tiny", "revision": None, "commit": commit}
    assert json.loads((tmp_path / "out/manifest.json").read_text())["source"] == source
    hub.requests.clear()
    code, printed, wrong = command(capfd, "inspect", "org/tiny", "--revision", "main")
    assert (code, wrong) == (0, "")
    assert f"source     org/tiny of the Hub, revision main, commit {commit}" in printed
    assert hub.files_asked() == set()
    code, printed, _ = command(capfd, "inspect", str(folder), "--json")
    assert code == 0 and json.loads(printed)["source"] is None


def test_python_takes_a_name(hub: Hub, folder: Path, here: None) -> None:
    hub.add("model", "org/tiny", folder, refs=("v1",))
    with package.compile("org/tiny", revision="v1") as compiled:
        assert compiled.artifact.manifest["source"]["hub"] == "org/tiny"
        got = compiled.predict("wake me at seven")
    with package.compile(folder) as compiled:
        assert compiled.artifact.manifest["source"] is None
        assert compiled.predict("wake me at seven") == got


def test_without_a_connection_a_whole_copy_is_used(hub: Hub, folder: Path, cache: Path) -> None:
    commit = hub.add("model", "org/tiny", folder, refs=("main", "v1"))
    env = environment(hub, cache)
    [first] = resolved(("org/tiny", "v1"), env=env)
    away = env | {"HF_ENDPOINT": "http://127.0.0.1:9"}
    for other in (away, env | {"HF_HUB_OFFLINE": "1"}):
        assert resolved(("org/tiny", "v1"), ("org/tiny", commit), env=other) == [
            first, first | {"source": first["source"] | {"revision": commit}},
        ]  # fmt: skip
    offline, unreachable = ("HF_HUB_OFFLINE",), ("127.0.0.1:9", "cannot be reached", "HF_ENDPOINT")
    for other, words in ((env | {"HF_HUB_OFFLINE": "1"}, offline), (away, unreachable)):
        never, branch = resolved("org/other", "org/tiny", env=other)
        said(never, "org/other: no such directory here", str(cache), *words)
        said(branch, "org/tiny: no such directory here", str(cache), *words)
    hub.broken["/api/"] = 503
    assert resolved(("org/tiny", "v1"), env=env) == [first]
    said(resolved("org/other", env=env)[0], "out of order (503)", "try again later")


def test_a_copy_that_is_not_whole_is_not_used_in_silence(
    hub: Hub, folder: Path, cache: Path
) -> None:
    hub.add("model", "org/tiny", folder)
    env = environment(hub, cache)
    [whole] = resolved("org/tiny", env=env)
    offline = env | {"HF_HUB_OFFLINE": "1"}
    for name in ("tokenizer.json", "model.safetensors"):
        copy = Path(whole["path"]) / name
        target = copy.readlink()
        copy.unlink()
        said(resolved("org/tiny", env=offline)[0], "lacks files", "HF_HUB_OFFLINE")
        copy.symlink_to(target)
    # As another program leaves it: some files, and no list of what there is.
    shutil.rmtree(next(cache.rglob("trees")))
    said(resolved("org/tiny", env=offline)[0], "may lack files", whole["path"])
    assert resolved("org/tiny", env=env) == [whole]


def test_a_branch_a_tag_and_a_commit(hub: Hub, folder: Path, cache: Path) -> None:
    changed = contents(folder) | {"added_tokens.json": b"{}"}
    first = hub.add("model", "org/tiny", folder, refs=("main", "v1"))
    second = hub.add("model", "org/tiny", changed, refs=("main", "refs/pr/3"), alias="tiny")
    asked = [("org/tiny", r) for r in ("v1", "main", "refs/pr/3", first, second)]
    rows = resolved("org/tiny", *asked, env=environment(hub, cache))
    assert [row["source"]["commit"] for row in rows] == [
        second, first, second, second, first, second
    ]  # fmt: skip
    assert [row["source"]["revision"] for row in rows] == [
        None, "v1", "main", "refs/pr/3", first, second
    ]  # fmt: skip
    assert (Path(rows[0]["path"]) / "added_tokens.json").is_file()
    assert not (Path(rows[1]["path"]) / "added_tokens.json").exists()
    none, gone, old = resolved(
        ("org/tiny", "v9"), ("org/tiny", "0" * 40), "tiny", env=environment(hub, cache)
    )
    assert old["source"] == {"hub": "tiny", "revision": None, "commit": second}
    said(none, "org/tiny: has no revision 'v9'", "/org/tiny/tree/main")
    said(gone, "has no revision", "0" * 40)


def test_shards_are_those_that_the_index_names(
    hub: Hub, folder: Path, cache: Path
) -> None:
    files = contents(folder)
    del files["model.safetensors"]
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors",
                            "b": "model-00002-of-00002.safetensors"}}  # fmt: skip
    shards = {name: name.encode() for name in index["weight_map"].values()}
    spare = {"model-00001-of-00003.safetensors": b"x", "consolidated.safetensors": b"x"}
    named = {"model.safetensors.index.json": json.dumps(index).encode()}
    hub.add("model", "org/shards", files | named | shards | spare)
    hub.add("model", "org/lost", files | named)
    hub.add("model", "org/odd", files | {"model.safetensors.index.json": b"{}"})
    [row] = resolved("org/shards", env=environment(hub, cache))
    assert hub.files_asked() == (NEEDED - {"model.safetensors"}) | named.keys() | shards.keys()
    assert "index" in row["left_out"]["model-00001-of-00003.safetensors"]
    lost, odd = resolved("org/lost", "org/odd", env=environment(hub, cache))
    said(lost, "org/lost", "model-00001-of-00002.safetensors", "index.json")
    said(odd, "org/odd", "model.safetensors.index.json")


def test_the_folders_of_sentence_transformers(hub: Hub, cache: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer

    save_model("Model", tmp_path / "bert")
    words = Transformer(str(tmp_path / "bert"))
    dense = Dense(48, 20, activation_function=torch.nn.Tanh())
    made = SentenceTransformer(modules=[words, Pooling(48), dense], device="cpu")
    made.save(str(tmp_path / "sentence"))
    files = contents(tmp_path / "sentence")
    hub.add("model", "org/sentence", files | {
        "onnx/model.onnx": b"onnx", "2_Dense/pytorch_model.bin": b"pickle",
        "other/config.json": b"{}",
    })  # fmt: skip
    [row] = resolved("org/sentence", env=environment(hub, cache))
    assert hub.files_asked() == files.keys() - {"README.md"}
    assert {"onnx", "other", "2_Dense/pytorch_model.bin"} <= row["left_out"].keys()
    texts = ["wake me at seven", "Ada Lovelace was born in London"]
    with package.compile(row["path"]) as compiled:
        found = [list(compiled.predict(text)) for text in texts]
    want = made.encode(texts)
    assert_close(found, want)
    # Its Dense module as a pickle only, as versions before 3 saved it.
    del files["2_Dense/model.safetensors"]
    hub.add("model", "org/older", files | {"2_Dense/pytorch_model.bin": b"x"})
    said(resolved("org/older", env=environment(hub, cache))[0], "org/older/2_Dense", "pickles",
         "pytorch_model.bin")  # fmt: skip


def test_what_is_not_there_or_may_not_be_read(hub: Hub, folder: Path, cache: Path) -> None:
    hub.add("model", "org/private", folder, private=True)
    hub.add("model", "org/gated", folder, gated=True)
    env = environment(hub, cache)
    both = ("no such directory here, and no model of this name on the Hub", "hf auth login")
    for name, row in zip(
        ("org/none", "none", "org/private"), resolved("org/none", "none", "org/private", env=env),
        strict=True,
    ):  # fmt: skip
        said(row, f"{name}: {both[0]}", *both[1:])
    said(resolved("org/gated", env=env)[0], "gated", f"{hub.url}/org/gated", "HF_TOKEN")
    token = environment(hub, cache, token=TOKEN)
    private, gated = resolved("org/private", "org/gated", env=token)
    assert private["source"]["hub"] == "org/private"
    said(gated, "gated", "ask for access")
    granted = environment(hub, cache, token=GRANTED)
    assert resolved("org/gated", env=granted)[0]["source"]["hub"] == "org/gated"
    hub.broken["org/gated"], hub.broken["org/none"] = 403, 429
    forbidden, often = resolved("org/gated", "org/none", env=granted)
    said(forbidden, "403", "HF_TOKEN")
    said(often, "429", "wait")


def test_repositories_without_a_model_that_may_be_opened(
    hub: Hub, folder: Path, cache: Path
) -> None:
    files = contents(folder)
    del files["model.safetensors"]
    convert = ("spaces/safetensors/convert", "--revision")
    cases: dict[str, tuple[dict[str, bytes], tuple[str, ...]]] = {
        "org/pickled": ({"pytorch_model.bin": b"x"}, ("pickles (pytorch_model.bin)", *convert)),
        "org/keras": ({"tf_model.h5": b"x"}, ("tf_model.h5", *convert)),
        "org/onnx": ({"model.onnx": b"x"}, ("model.onnx",)),
    }
    for name, (more, _) in cases.items():
        hub.add("model", name, files | more)
    for row, (name, (_, words)) in zip(
        resolved(*cases, env=environment(hub, cache)), cases.items(), strict=True
    ):
        said(row, f"{name}: no .safetensors file", *words)
    hub.add("model", "org/text", {"README.md": "nothing"})
    said(resolved("org/text", env=environment(hub, cache))[0], "org/text: no config.json")
    assert not hub.files_asked() & {"pytorch_model.bin", "tf_model.h5", "model.onnx"}


def test_what_is_not_fetched_is_judged_by_its_name(hub: Hub, folder: Path, cache: Path) -> None:
    """The head of a SetFit model is not left out in silence, nor is a file that nobody knows."""
    files = contents(folder)
    hub.add("model", "org/setfit", files | {"model_head.pkl": b"pickle"})
    hub.add("model", "org/odd", files | {"weights.dat": b"?"})
    env = environment(hub, cache)
    setfit, odd = resolved("org/setfit", "org/odd", env=env)
    said(setfit, "org/setfit/model_head.pkl", "pickle", "--ignore model_head.pkl", code=3)
    said(odd, "org/odd/weights.dat", "--ignore weights.dat", code=3)
    assert hub.files_asked() == set()
    rows = resolved("org/setfit", "org/odd", env=env, ignored=("model_head.pkl", "weights.dat"))
    assert [row["left_out"] for row in rows] == [
        {"model_head.pkl": "ignored on request"}, {"weights.dat": "ignored on request"}
    ]  # fmt: skip


def test_inspect_says_what_is_refused(
    hub: Hub, folder: Path, here: None, capfd: pytest.CaptureFixture[str]
) -> None:
    hub.add("model", "org/setfit", contents(folder) | {"model_head.pkl": b"x", "odd.dat": b"x"})
    code, printed, wrong = command(capfd, "inspect", "org/setfit")
    assert code == 3 and wrong.count("\n") == 1 and "org/setfit/model_head.pkl" in wrong
    assert "org/setfit" in printed and "not supported" in printed


class Huge(bytes):
    """A file that is said to have a petabyte."""

    def __len__(self) -> int:
        return 10**15


def test_repositories_that_are_too_large(hub: Hub, folder: Path, cache: Path) -> None:
    files = contents(folder)
    hub.add("model", "org/huge", files | {"model.safetensors": Huge()})
    hub.add("model", "org/words", files | {"vocab.txt": Huge()})
    many = {f"{i}.md": b"" for i in range(10_001)}
    hub.add("model", "org/many", files | many)
    huge, words, row = resolved("org/huge", "org/words", "org/many", env=environment(hub, cache))
    said(huge, "org/huge", "1000000.0 GB", "hf download org/huge")
    said(words, "org/words/vocab.txt", "1000000.0 GB")
    said(row, "org/many", "10000 files")
    assert not hub.files_asked() & {"model.safetensors", "vocab.txt"}


def test_no_room(hub: Hub, folder: Path, cache: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk; and a small disk, if one can be
    mounted."""
    hub.add("model", "org/tiny", folder)
    env = environment(hub, cache)
    size = (folder / "model.safetensors").stat().st_size

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))

    said(resolved("org/tiny", env=env, preexec_fn=limit)[0], "no space left", "HF_HOME")
    assert not list(cache.rglob("*.incomplete"))
    assert resolved("org/tiny", env=env)[0]["source"]["hub"] == "org/tiny"
    (tmp_path / "file").write_text("")
    said(resolved("org/tiny", env=env | {"HF_HOME": str(tmp_path / "file")})[0],
         "cannot be written", "HF_HOME")  # fmt: skip
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)]
    if subprocess.run(mount, capture_output=True).returncode == 0:
        try:
            row = resolved("org/tiny", env=env | {"HF_HOME": str(small)})[0]
        finally:
            subprocess.run(["umount", str(small)], check=True)
        said(row, "org/tiny: needs", str(small), "HF_HOME")


class Cut(_Handler):
    """Breaks off in the middle of the weights, `left` times."""

    left = 0

    def _send(self, status: int, data: bytes, headers: Mapping[str, str]) -> None:
        if self.command == "HEAD" or "model.safetensors" not in self.path or Cut.left == 0:
            super()._send(status, data, headers)
            return
        Cut.left -= 1
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2])
        self.close_connection = True


def test_a_connection_that_breaks(
    hub: Hub, folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is missing is fetched, and what has come is not fetched again."""
    hub.add("model", "org/tiny", folder)
    monkeypatch.setattr(hub._server, "RequestHandlerClass", Cut)
    monkeypatch.setattr(Cut, "left", 1)
    [row] = resolved("org/tiny", env=environment(hub, cache))
    assert Cut.left == 0
    assert (Path(row["path"]) / "model.safetensors").read_bytes() == (
        folder / "model.safetensors"
    ).read_bytes()
    hub.broken["/resolve/"] = 500
    assert resolved("org/tiny", env=environment(hub, cache)) == [row]


def test_weights_that_never_arrive(hub: Hub, folder: Path, cache: Path, tmp_path: Path) -> None:
    hub.add("model", "org/tiny", folder)
    hub.broken["model.safetensors"] = 404
    said(resolved("org/tiny", env=environment(hub, cache))[0], "org/tiny", "/model.safetensors",
         "though it lists it")  # fmt: skip
    hub.broken.clear()
    before = hub.files_asked()
    hub.requests.clear()
    assert resolved("org/tiny", env=environment(hub, cache))[0]["source"]["hub"] == "org/tiny"
    assert before == NEEDED - {"model.safetensors"} and hub.files_asked() == {"model.safetensors"}


def test_a_server_that_is_no_hub(hub: Hub, cache: Path) -> None:
    hub.add("model", "org/tiny", {"config.json": "{}"})
    env = environment(hub, cache) | {"HF_ENDPOINT": f"{hub.url}/elsewhere"}
    row = resolved("org/tiny", env=env)[0]
    assert row["code"] == 2 and "org/tiny" in row["error"] and "\n" not in row["error"]


def test_a_server_that_does_not_answer(cache: Path, hub: Hub) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = f"http://127.0.0.1:{silent.getsockname()[1]}"
        env = environment(hub, cache, HF_ENDPOINT=place, HF_HUB_ETAG_TIMEOUT="1")
        said(resolved("org/tiny", env=env)[0], place, "cannot be reached", "timed out")


def test_what_another_program_fetched_is_judged_alike(
    hub: Hub, folder: Path, here: None
) -> None:
    """The inventory of a copy is the same, whether all files of the repository are in it or not."""
    import huggingface_hub

    hub.add("model", "org/tiny", contents(folder) | OTHERS)

    def findings() -> set[Finding]:
        place = resolve("org/tiny")
        inventory = Inventory(place.path)
        place.note(inventory)
        inventory.sweep(place.path)
        return {f for f in inventory.findings if f.file not in NEEDED}

    before = findings()
    assert {f.file for f in before if "/" not in f.file} >= {"modeling_evil.py", "onnx"}
    assert {f.status for f in before} == {"no effect"}
    huggingface_hub.snapshot_download("org/tiny")
    assert findings() == before


def test_bars_are_shown_on_a_terminal_only(hub: Hub, folder: Path, cache: Path) -> None:
    hub.add("model", "org/tiny", folder)
    ours, theirs = pty.openpty()
    shown: list[bytes] = []

    def read() -> None:
        try:
            while part := os.read(ours, 4096):
                shown.append(part)
        except OSError:  # so ends a terminal that nobody holds any more
            pass

    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    reader = threading.Thread(target=read)
    reader.start()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, '[["org/tiny", null]]', "[]"], env=environment(hub, cache),
        stdout=subprocess.PIPE, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    reader.join(timeout=10)
    os.close(ours)
    assert done.returncode == 0
    text = b"".join(shown).decode()
    assert "model.safetensors" in text and "100%" in text and "Fetching" not in text


@pytest.mark.parametrize("path", [
    "./x", "../x", "/no/such/x", "~/x", "a/b/c", "a/", "x.onnx", "org/x.onnx", "model.safetensors",
    "two words", "", "org/-x", "a\\b",
])  # fmt: skip
def test_what_looks_like_a_path_is_one(path: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no such directory") as error:
        resolve(path)
    assert "Hub;" not in str(error.value)  # nobody asked it


def test_what_is_here_wins(
    hub: Hub, folder: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("model", "org/tiny", folder)
    (tmp_path / "org/tiny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert resolve("org/tiny").source is None and resolve("org/tiny").path == Path("org/tiny")
    with pytest.raises(InputError, match="no revisions; leave out --revision main"):
        resolve("org/tiny", "main")
    with pytest.raises(InputError, match="is an address; give the name alone: org/tiny"):
        resolve("https://huggingface.co/org/tiny/tree/main")
    with pytest.raises(InputError, match="no such directory"):
        resolve(Path("org/other"))  # a Path is never a name
    [row] = resolved("org/tiny", env=environment(hub, cache), cwd=tmp_path)
    assert row["source"] is None and hub.requests == []


def test_a_module_has_no_revision() -> None:
    with pytest.raises(InputError, match="a module has no revision 'v1'"):
        package.compile(torch.nn.Linear(2, 2), revision="v1")


def test_a_line_and_an_exit_code(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each command that takes a model, where the Hub is not to be asked."""
    monkeypatch.chdir(tmp_path)
    write_task(tmp_path / "data", train=20, dev=4)
    for arguments in (
        ("compile", "org/none", "-o", "out"), ("compile", "org/none", "--emit", "graph"),
        ("inspect", "org/none", "--revision", "v1"), ("tune", "org/none"),
        ("search", "--teacher", "org/none", "--data", "data", "--budget-ms", "5"),
        ("demo", "--teacher", "org/none"),
    ):  # fmt: skip
        code, _, wrong = command(capfd, *arguments)
        lines = wrong.splitlines()
        assert code == 2 and len(lines) == 1, lines
        assert lines[0].startswith("canao: error: org/none: no such directory here")
        assert "HF_HUB_OFFLINE" in lines[0]


class Stop(Exception):
    """Ends a search at its first event, when its facts are written and nothing is compiled yet."""


def test_a_search_is_bound_to_the_commit_of_its_teacher(
    hub: Hub, here: None, tmp_path: Path
) -> None:
    teacher = save_tiny(tmp_path / "teacher")
    commit = hub.add("model", "org/teacher", teacher)
    write_task(tmp_path / "data", train=40, dev=12)

    def stop(event: Event) -> None:
        if event.stage != "data":
            raise Stop

    def search(**more: str) -> None:
        package.search(
            teacher="org/teacher", data="data", budget_ms=5, length=16, run_dir="run",
            progress=stop, **more,
        )  # fmt: skip

    with pytest.raises(Stop):
        search()
    facts = json.loads((tmp_path / "run/run.json").read_text())["facts"]
    assert (facts["teacher"], facts["teacher_commit"]) == ("org/teacher", commit)
    weights = load_file(teacher / "model.safetensors")
    save_file({name: w + 1 for name, w in weights.items()}, teacher / "model.safetensors",
              metadata={"format": "pt"})  # fmt: skip
    moved = hub.add("model", "org/teacher", teacher)
    with pytest.raises(InputError, match=f"teacher_commit was '{commit}', now '{moved}'"):
        search()
    with pytest.raises(Stop):
        search(revision=commit)

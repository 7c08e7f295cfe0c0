"""A model by its name on the Hugging Face Hub, in place of a directory.

What exists here always wins. The files of a name are fetched into the cache of huggingface_hub, and
only those that are needed: settings and vocabularies, and the weights as safetensors. Code, pickles
and the weights of other frameworks never are; what is left behind is judged by its name, with the
table that judges the files of a directory (inventory/tables/files.py).
"""

from __future__ import annotations

import glob
import os
import re
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.metadata import version
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from canao.artifact.reading import MAX_BYTES, read_json
from canao.errors import InputError
from canao.model.directory.hub_errors import (
    cache_directory,
    line,
    no_bar,
    silent_library,
    told,
    unreachable,
)
from canao.model.inventory.inventory import Inventory
from canao.model.inventory.table import INERT, REFUSED, Entry
from canao.model.inventory.tables.files import FILES, UNKNOWN

# Settings and vocabularies: text, or a form that a parser reads without running anything.
_SETTINGS = ("*.json", "*.txt", "*.model", "*.spm", "*.bpe", "*.codes", "*.vocab", "*.tiktoken",
             "*.tokenizer")  # fmt: skip
_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_SAYS_WHAT = ("config.json", "modules.json", "adapter_config.json")
_ADAPTER = "adapter_model*.safetensors"
# Weights that are never opened: pickles first, then other frameworks.
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle")
_OTHERS = ("*.h5", "*.msgpack", "*.ot", "*.onnx", "*.gguf")
_CODE = "code, which is never fetched; settings that name code are refused"
_SPARE = "neither model.safetensors nor named by its index"
_FOLDER = "no settings file names the folder"
# Endings that make a word a file rather than a name of the Hub.
_FILE = (".onnx", ".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".json", ".tsv", ".csv")
_ADDRESS = re.compile(r"(?:https?://[^/]+/|hf://(?:models/)?)([\w.-]+(?:/[\w.-]+)?)")
_COMMIT = re.compile(r"[0-9a-f]{40}")
# More than this is not fetched unasked: no model of this size is compiled in float32.
_MOST_BYTES = 32 << 30
_MOST_FILES = 10_000


@dataclass(frozen=True, slots=True)
class ModelPlace:
    """Where a model lies.

    path      its directory, or its .onnx file
    hub       its name on the Hub; None for a model that lies here
    revision  the branch, tag or commit that was asked for; None: the main branch
    commit    the commit that this was
    left_out  files of the Hub that were not fetched, and why each has no effect
    """

    path: Path
    hub: str | None = None
    revision: str | None = None
    commit: str | None = None
    left_out: tuple[tuple[str, str], ...] = ()

    @property
    def source(self) -> dict[str, str | None] | None:
        """The entry `source` of a manifest; None for a model that lies here."""
        if self.hub is None:
            return None
        return {"hub": self.hub, "revision": self.revision, "commit": self.commit}

    def note(self, inventory: Inventory) -> None:
        """Tell an inventory of `path` what was left out: it is listed, and judged no other way
        where another program has fetched it into the same cache."""
        for file, why in self.left_out:
            inventory.file(self.path / file, INERT, why)


def format_source(source: Mapping[str, Any]) -> str:
    """`ModelPlace.source` in words: name, what was asked for and the commit."""
    asked = source["revision"]
    named = "" if asked in (None, source["commit"]) else f"revision {asked}, "
    return f"{source['hub']} of the Hub, {named}commit {source['commit']}"


def resolve(
    model: str | Path, revision: str | None = None, ignored: Collection[str] = ()
) -> ModelPlace:
    """The directory, or the file, that `model` names: what exists here, or else a name of the Hub.

    A `Path` is never a name. `ignored` names files that would be refused, as for an Inventory.
    InputError for what is neither, and for whatever keeps the files from being fetched;
    UnsupportedError for a file of the Hub that is refused by its name.
    """
    text = str(model)
    if os.path.lexists(text):
        if revision is not None:
            raise InputError(
                f"{text}: lies here, where it has no revisions; leave out --revision {revision}, "
                "or give the name of a model on the Hub"
            )
        return ModelPlace(Path(text))
    address = _ADDRESS.match(text)
    if address is not None:
        raise InputError(f"{text}: is an address; give the name alone: {address[1]}")
    if isinstance(model, Path) or not _may_be_name(text):
        raise InputError(
            f"{text}: no such directory and no such file; give a Hugging Face model directory, an "
            ".onnx file, or a name on the Hub, such as org/name"
        )
    return _fetch(text, revision, ignored)


def _may_be_name(text: str) -> bool:
    """Whether the Hub could have a model called `text`; './x', 'a/b/c' and 'x.onnx' are paths."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    if PurePosixPath(text).suffix.lower() in _FILE:
        return False
    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return bool(text)


@dataclass(frozen=True, slots=True)
class _Repo:
    """A repository at a commit.

    files     the size of each of its files, by path
    offline   why the Hub is not asked and only its cache is read; '' if it is asked
    """

    name: str
    commit: str
    files: Mapping[str, int]
    offline: str

    def inside(self, folder: str) -> list[str]:
        """The files that lie in a folder itself; '' is the root."""
        return [path for path in self.files if _folder(path) == folder]


def _fetch(name: str, revision: str | None, ignored: Collection[str]) -> ModelPlace:
    """Have what is needed of a repository in the cache."""
    with silent_library():
        repo = _open(name, revision)
        inventory = Inventory(Path(name), ignored)
        _judge(repo, [""], inventory)
        _require_settings(repo)
        place = _fetch_settings(repo, [""])
        folders = _module_folders(repo, place)
        _judge(repo, folders, inventory)
        if folders:
            _fetch_settings(repo, folders)
        _fetch_weights(repo, place, ["", *folders], inventory)
    for other in sorted({path.partition("/")[0] for path in repo.files if "/" in path}):
        if not any(f"{folder}/".startswith(f"{other}/") for folder in folders):
            inventory.file(Path(name) / other, INERT, _FOLDER)
    left_out = tuple((f.file, f.note) for f in inventory.findings)
    return ModelPlace(place, name, revision, repo.commit, left_out)


def _open(name: str, revision: str | None) -> _Repo:
    """The repository at a revision, as the Hub has it now, or as the cache has it if the Hub cannot
    be asked."""
    import huggingface_hub as hub
    from huggingface_hub import constants
    from huggingface_hub.hf_api import RepoFile

    api = hub.HfApi(library_name="canao", library_version=version("canao"))
    try:
        # `resolve_revision` would wait without end for a Hub that does not answer.
        api.model_info(name, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except Exception as error:  # noqa: BLE001  all sorts; line looks at each
        offline = unreachable(error)
        if not offline:
            raise InputError(line(name, revision, error, opening=True)) from None
        return _cached(name, revision, offline)
    with told(name, revision):
        commit = api.resolve_revision(name, revision=revision).resolved
        tree = api.list_repo_tree(name, recursive=True, revision=commit)
        found = list(islice(tree, _MOST_FILES + 1))
        files = {item.path: int(item.size) for item in found if isinstance(item, RepoFile)}
        if not _COMMIT.fullmatch(commit):
            raise ValueError(f"its commit is called {commit[:60]!r}")
    if len(found) > _MOST_FILES:
        raise InputError(
            f"{name}: has more than {_MOST_FILES} files, which no model has; fetch what is needed "
            "with `hf download` and give the directory"
        )
    return _Repo(name, commit, files, "")


def _cached(name: str, revision: str | None, offline: str) -> _Repo:
    """The repository as it was when it was fetched last."""
    import huggingface_hub as hub
    from huggingface_hub.errors import CachedRepoTreeNotFoundError, LocalEntryNotFoundError

    try:
        folder = Path(hub.snapshot_download(
            name, revision=revision, local_files_only=True, allow_patterns=[]
        ))  # fmt: skip
    except LocalEntryNotFoundError:
        asked = f" at revision '{revision}'" if revision is not None else ""
        raise InputError(
            f"{name}: no such directory here, nor a copy{asked} in {cache_directory()}, and "
            f"{offline}"
        ) from None
    try:
        tree = hub.get_cached_repo_tree(name, revision=folder.name)
    except CachedRepoTreeNotFoundError:
        # Nobody can tell whether it is whole: a tokenizer may be missing, and nothing would say so.
        raise InputError(
            f"{name}: its copy in the cache may lack files, and {offline}; or give the copy as it "
            f"is: {folder}"
        ) from None
    return _Repo(name, folder.name, {item.path: int(item.size) for item in tree}, offline)


def _judge(repo: _Repo, folders: Iterable[str], inventory: Inventory) -> None:
    """Note what becomes of the files of some folders that are not fetched."""
    for path in (path for folder in folders for path in repo.inside(folder)):
        name, place = PurePosixPath(path).name, inventory.root / path
        entry = _entry(name)
        if _is_data(name) and (entry is None or entry.status == REFUSED):
            continue  # it is fetched, and judged where a directory is
        if name.endswith(".py"):
            inventory.file(place, INERT, _CODE)
        elif entry is None:
            inventory.refuse(place, "", UNKNOWN.format(name=path))
        elif entry.status == REFUSED:
            inventory.refuse(place, "", f"{entry.does}; --ignore {path} leaves it out")
        else:
            inventory.file(place, entry.status, entry.does)
    inventory.require()


def _entry(name: str) -> Entry | None:
    """What is known of a file by its name."""
    return next((entry for pattern, entry in FILES if fnmatchcase(name, pattern)), None)


def _is_data(name: str) -> bool:
    return _is_settings(name) or name.endswith(".safetensors")


def _is_settings(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in _SETTINGS)


def _require_settings(repo: _Repo) -> None:
    """InputError for a repository that holds no model as Transformers saves it."""
    if not any(name in repo.files for name in _SAYS_WHAT):
        raise InputError(
            f"{repo.name}: no config.json on the Hub; give the name of a model that Transformers "
            "can load"
        )


def _fetch_settings(repo: _Repo, folders: Iterable[str]) -> Path:
    """Fetch the settings and vocabularies of some folders; the directory of the whole copy."""
    import huggingface_hub as hub

    wanted = []
    for path in (path for folder in folders for path in repo.inside(folder)):
        name = PurePosixPath(path).name
        entry = _entry(name)
        if not _is_settings(name) or (entry is not None and entry.status != REFUSED):
            continue
        if repo.files[path] > MAX_BYTES:
            raise InputError(
                f"{repo.name}/{path}: has {_size(repo.files[path])}, and no settings are read of "
                f"more than {_size(MAX_BYTES)}; check the name of the model"
            )
        wanted.append(path)
    _require_room(repo, wanted)
    with told(repo.name, repo.commit, repo.offline):
        # Unlike a file by itself, it keeps the list of all files, by which a later call without the
        # Hub knows whether the copy is whole.
        return Path(hub.snapshot_download(
            repo.name, revision=repo.commit, local_files_only=bool(repo.offline),
            allow_patterns=[glob.escape(path) for path in wanted], tqdm_class=no_bar(),
        ))  # fmt: skip


def _module_folders(repo: _Repo, place: Path) -> list[str]:
    """The folders that modules.json of Sentence-Transformers names, and those inside them."""
    if not (place / "modules.json").is_file():
        return []
    listed = read_json(place / "modules.json", list[Any])
    named = {
        str(PurePosixPath(module["path"])) for module in listed
        if isinstance(module, dict) and isinstance(module.get("path"), str) and module["path"]
    }  # fmt: skip
    folders = {_folder(path) for path in repo.files}
    return sorted(f for f in folders if any(f"{f}/".startswith(f"{name}/") for name in named))


def _fetch_weights(
    repo: _Repo, place: Path, folders: Sequence[str], inventory: Inventory
) -> None:
    """Fetch the safetensors of some folders: the one, or those that the index names."""
    import huggingface_hub as hub

    wanted = [path for folder in folders for path in _weights(repo, place, folder)]
    for path in (path for folder in folders for path in repo.inside(folder)):
        if path.endswith(".safetensors") and path not in wanted:
            inventory.file(inventory.root / path, INERT, _SPARE)
    size = sum(repo.files[path] for path in wanted)
    if size > _MOST_BYTES:
        raise InputError(
            f"{repo.name}: its weights have {_size(size)}, and more than {_size(_MOST_BYTES)} are "
            f"not fetched unasked; fetch them with `hf download {repo.name}` and give the directory"
        )
    _require_room(repo, wanted)
    with told(repo.name, repo.commit, repo.offline):
        # One after the other in this thread, so that an interrupt ends it at once.
        for path in wanted:
            hub.hf_hub_download(
                repo.name, path, revision=repo.commit, local_files_only=bool(repo.offline)
            )


def _weights(repo: _Repo, place: Path, folder: str) -> list[str]:
    """The safetensors files of a folder that hold the weights.

    InputError if the weights are there in another form only.
    """
    names = {PurePosixPath(path).name: path for path in repo.inside(folder)}
    adapters = [path for name, path in names.items() if fnmatchcase(name, _ADAPTER)]
    if _WHOLE in names:
        return [names[_WHOLE], *adapters]
    if _INDEX in names:
        return [*_shards(repo, place / names[_INDEX], names), *adapters]
    if not adapters:
        _require_no_pickles(repo.name, folder, names)
    return adapters


def _shards(repo: _Repo, index: Path, names: Mapping[str, str]) -> list[str]:
    found = read_json(index).get("weight_map")
    named = sorted(set(map(str, found.values()))) if isinstance(found, dict) else []
    if not named:
        raise InputError(
            f"{repo.name}: {index.name} does not say which file holds each weight; it has to be "
            "mended on the Hub"
        )
    for name in named:
        if name not in names:
            raise InputError(
                f"{repo.name}: has no file {name!r}, though {index.name} names it; it has to be "
                "mended on the Hub, or give another --revision"
            )
    return [names[name] for name in named]


def _require_no_pickles(name: str, folder: str, names: Collection[str]) -> None:
    """InputError where a folder has weights, and none as safetensors."""
    where = f"{name}/{folder}" if folder else name
    for patterns, kind in ((_PICKLES, "pickles"), (_OTHERS, "in other forms")):
        found = [n for n in sorted(names) if any(fnmatchcase(n, pattern) for pattern in patterns)]
        if found:
            raise InputError(
                f"{where}: no .safetensors file on the Hub; its weights are {kind} "
                f"({found[0]}), which are never fetched; have them converted by "
                "https://huggingface.co/spaces/safetensors/convert and give the --revision "
                "refs/pr/N that it opens, or save the model with safetensors and give the directory"
            )


def _folder(path: str) -> str:
    """The folder of a file in a repository; '' is the root."""
    return path.rpartition("/")[0]


def _require_room(repo: _Repo, paths: Collection[str]) -> None:
    """InputError if there is no room for files that are still to be fetched."""
    if repo.offline:
        return
    from huggingface_hub import try_to_load_from_cache

    missing = [
        path for path in paths
        if not isinstance(try_to_load_from_cache(repo.name, path, revision=repo.commit), str)
    ]  # fmt: skip
    needed = sum(repo.files[path] for path in missing)
    cache = cache_directory()
    above = next(p for p in (cache, *cache.parents) if p.exists())
    free = shutil.disk_usage(above).free
    if needed > free:
        raise InputError(
            f"{repo.name}: needs {_size(needed)} in {cache}, which has {_size(free)} left; free "
            "space, or set HF_HOME to another place"
        )


def _size(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"

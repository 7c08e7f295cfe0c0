"""Data sets of the Hugging Face Hub by name, through the `datasets` package. No code of a data set
is ever run: versions of the package from 4 on know no such thing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from canao.errors import CanaoError, InputError
from canao.train.reading.tables import RawTable, listed

_COMMIT = re.compile(r"[0-9a-f]{40}")
_TRAIN = "train"
# Where examples to compare with are looked for; GLUE's MNLI has two such sets.
_DEV = ("validation", "dev", "validation_matched", "test")
_EXTRA = "pip install 'canao[data]' brings it"


def load_named(
    name: str, revision: str | None, split: bool = True
) -> tuple[str, str, RawTable, RawTable | None, tuple[str, ...]]:
    """The data set `name`: OWNER/NAME, OWNER/NAME/CONFIGURATION or NAME/CONFIGURATION.

    Returns its name, where it came from with the commit, the training table, the one to compare
    with, and notes. Without `split` nothing is trained on, and the table to compare with may be the
    only one, which is then the first of the two. InputError in one line if it is missing, gated or
    offline, or no labelled text.
    """
    try:
        import datasets
    except ImportError:
        raise InputError(
            f"{name}: no such file or directory, and the package `datasets`, which loads data sets "
            f"of the Hugging Face Hub by name, is not installed; {_EXTRA}"
        ) from None
    if int(datasets.__version__.partition(".")[0]) < 4:
        raise InputError(f"{name}: version {datasets.__version__} of `datasets` would run code of "
                         f"a data set; install version 4 or later: {_EXTRA}")  # fmt: skip
    repo, config, commit = _found(name, revision)
    with _told(name, repo), _silent(datasets):
        held = _load(datasets, repo, config, commit or revision, name)
    tables = {part: held[part] for part in held}
    where = " ".join(filter(None, (repo, config)))
    source = f"{where} at {commit or revision or 'the copy that was loaded before'}"
    with _told(name, repo):
        chosen = next((part for part in _DEV if _labelled(tables.get(part))), None)
        first = chosen if _TRAIN not in tables and not split else _TRAIN
        if first not in tables:
            raise InputError(f"{name}: has no split 'train', only {listed(list(tables))}; choose "
                             "another data set, or export a split to a file")  # fmt: skip
        train = _table(datasets, tables[first], f"{where} {first}")
        alone = chosen is None or chosen == first
        dev = None if alone else _table(datasets, tables[chosen], f"{where} {chosen}")
    left = [part for part in tables if part not in (first, chosen)]
    note = f"splits that are not used: {listed(left)}" if left else ""
    return config or repo.rpartition("/")[2], source, train, dev, (note,)


def _found(name: str, revision: str | None) -> tuple[str, str | None, str | None]:
    """Repository, configuration and commit of what `name` means; no commit while offline."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled, RepositoryNotFoundError

    parts = name.split("/")
    readings: list[tuple[str, str | None]] = [("/".join(parts[:2]), "/".join(parts[2:]) or None)]
    if len(parts) == 2:  # data sets from before there were owners, such as glue
        readings.append((parts[0], parts[1]))
    for repo, config in readings:
        try:
            with _told(name, repo, RepositoryNotFoundError, OfflineModeIsEnabled):
                info = HfApi().dataset_info(repo, revision=revision)
        except RepositoryNotFoundError as error:
            if _is_gated(error):
                raise InputError(_gated(name, repo)) from None
            continue
        except OfflineModeIsEnabled:
            return _kept(name, readings, revision)
        return info.id, config, info.sha
    raise InputError(
        f"{name}: no such file or directory here, and no data set of that name on the Hugging Face "
        "Hub, unless it is private; check the name, or log in with `hf auth login` or HF_TOKEN"
    )


def _kept(
    name: str, readings: list[tuple[str, str | None]], revision: str | None
) -> tuple[str, str | None, str | None]:
    """What `name` means among the data sets that were loaded before."""
    from pathlib import Path

    import datasets

    cache = Path(datasets.config.HF_DATASETS_CACHE)
    for repo, config in readings:
        # Older names have an owner by now: glue is nyu-mll/glue.
        pattern = repo.replace("/", "___") if "/" in repo else f"*___{repo}"
        for folder in sorted([*cache.glob(pattern), *cache.glob(repo)]):
            if config is None or (folder / config).is_dir():
                commits = sorted(
                    path.name for path in folder.glob(f"{config or '*'}/*/*")
                    if _COMMIT.fullmatch(path.name)
                )  # fmt: skip
                asked = [c for c in commits if revision is None or c == revision]
                if asked:
                    return folder.name.replace("___", "/"), config, asked[-1]
    raise InputError(
        f"{name}: no such file or directory here, and HF_HUB_OFFLINE keeps from asking the Hub for "
        "a data set that was not loaded before; unset it, or give a file"
    )


def _load(datasets: Any, repo: str, config: str | None, commit: str | None, name: str) -> Any:
    if datasets.config.HF_HUB_OFFLINE:
        return datasets.load_dataset(repo, config, revision=commit)
    known = datasets.get_dataset_config_names(repo, revision=commit)
    if config is None and len(known) > 1 and "default" not in known:
        raise InputError(f"{name}: has several configurations, give one of them, as "
                         f"{repo}/{known[0]}: {listed(known)}")  # fmt: skip
    if config is not None and config not in known:
        raise InputError(f"{name}: no configuration '{config}' among {listed(known)}; give one of "
                         "them")  # fmt: skip
    return datasets.load_dataset(repo, config, revision=commit)


def _labelled(split: Any) -> bool:
    """Whether a split may have labels: the test sets of GLUE have -1 throughout."""
    if split is None or not len(split):
        return False
    column = split["label"] if "label" in split.column_names else None
    return column is None or any(value not in (-1, None) for value in column)


def _table(datasets: Any, split: Any, place: str) -> RawTable:
    """A split as a table. Classes are called by their names, also in lists; what is no text,
    number, truth value or list of such stands there as an empty tuple, which can be no text."""
    names, classes = tuple(split.column_names), {}
    columns: list[list[Any]] = []
    for name in names:
        feature = split.features[name]
        inner = getattr(feature, "feature", None)  # of a list
        if isinstance(feature, datasets.ClassLabel):
            classes[name] = tuple(feature.names)
            columns.append([_class(feature.names, value) for value in split[name]])
        elif isinstance(feature, datasets.Value):
            columns.append(list(split[name]))
        elif isinstance(inner, datasets.ClassLabel):
            classes[name] = tuple(inner.names)
            columns.append([
                tuple(_class(inner.names, v) for v in values or ()) for values in split[name]
            ])  # fmt: skip
        elif isinstance(inner, datasets.Value):
            columns.append([tuple(values or ()) for values in split[name]])
        else:
            columns.append([()] * len(split))
    rows = tuple(zip(*columns, strict=True))
    return RawTable(place, names, rows, tuple(range(len(rows))), classes=classes)


def _class(names: list[str], value: int | None) -> str | None:
    """The name of a class; None where there is no label, which data sets write as -1."""
    return names[value] if value is not None and 0 <= value < len(names) else None


@contextmanager
def _silent(datasets: Any) -> Iterator[None]:
    """Without the progress bars and the log of the library inside the block."""
    level = datasets.logging.get_verbosity()
    bars = datasets.is_progress_bar_enabled()
    datasets.logging.set_verbosity_error()
    datasets.disable_progress_bar()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if bars:
            datasets.enable_progress_bar()


@contextmanager
def _told(name: str, repo: str, *passed: type[Exception]) -> Iterator[None]:
    """Around calls of the libraries: what they raise becomes one line, except for `passed`."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - of three libraries and those below them
        if isinstance(error, (CanaoError, *passed)):
            raise
        raise InputError(_line(name, repo, error)) from None


def _line(name: str, repo: str, error: Exception) -> str:
    from huggingface_hub import constants, errors

    causes: list[BaseException] = [error]
    while (below := causes[-1].__cause__ or causes[-1].__context__) and below not in causes:
        causes.append(below)
    for cause in causes:
        if isinstance(cause, errors.GatedRepoError) or "is a gated dataset" in str(cause):
            return _gated(name, repo)
        if isinstance(cause, errors.RevisionNotFoundError):
            return f"{name}: no such revision on the Hub; give a branch, tag or commit of {repo}"
        if isinstance(cause, errors.OfflineModeIsEnabled):
            return f"{name}: HF_HUB_OFFLINE keeps from asking the Hub; unset it, or give a file"
        if isinstance(cause, OSError) and cause.errno is not None and cause.strerror:
            return (f"{name}: cannot be kept ({cause.strerror}); free some space, or set HF_HOME "
                    "to another place, and give the command again")  # fmt: skip
        if isinstance(cause, errors.HfHubHTTPError):
            code = cause.response.status_code
            return (f"{name}: the Hub at {constants.ENDPOINT} says {code}; "
                    f"{'try again later' if code >= 500 or code == 429 else 'check the name'}, or "
                    "give a file")  # fmt: skip
        if isinstance(cause, errors.HTTPError):
            return (f"{name}: no such file or directory, and the Hub at {constants.ENDPOINT} "
                    "cannot be reached; check the path, the network and HF_ENDPOINT")  # fmt: skip
    why = " ".join(str(error).split())[:200] or type(error).__name__
    return f"{name}: cannot be loaded from the Hub ({why}); export it to a file and give that"


def _is_gated(error: Exception) -> bool:
    from huggingface_hub.errors import GatedRepoError

    return isinstance(error, GatedRepoError)


def _gated(name: str, repo: str) -> str:
    from huggingface_hub import constants

    return (f"{name}: is gated on the Hub; ask for access at {constants.ENDPOINT}/datasets/{repo}, "
            "then log in with `hf auth login` or set HF_TOKEN")  # fmt: skip

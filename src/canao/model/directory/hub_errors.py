"""What keeps a model from being fetched from the Hub, each in a line with its remedy."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from canao.errors import CanaoError, InputError


def cache_directory() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE).absolute()



@contextmanager
def silent_library() -> Iterator[None]:
    """Without the log of the library, whose errors are told in one line."""
    from huggingface_hub.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def no_bar() -> Any:
    """A progress bar that is never shown, for what takes no time. Bars of weights are the library's
    own, which are shown on terminals only."""
    from huggingface_hub.utils import tqdm

    class NoBar(tqdm):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options | {"disable": True})

    return NoBar


@contextmanager
def told(name: str, revision: str | None, offline: str = "") -> Iterator[None]:
    """Around calls for a repository that is there: whatever the library raises becomes a line."""
    try:
        yield
    except CanaoError:
        raise
    except Exception as error:  # noqa: BLE001  all sorts, those of three libraries below it too
        raise InputError(line(name, revision, error, offline)) from None


def _causes(error: BaseException) -> list[BaseException]:
    """An error and what it was raised from."""
    found: list[BaseException] = []
    step: BaseException | None = error
    while step is not None and step not in found:
        found.append(step)
        step = step.__cause__
    return found


def unreachable(error: Exception) -> str:
    """Why the Hub cannot be asked, and the remedy; '' if it can and refuses."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE keeps from asking the Hub; unset it to fetch the model"
    if isinstance(error, HfHubHTTPError):
        code = error.response.status_code
        return f"the Hub is out of order ({code}); try again later" if code >= 500 else ""
    if isinstance(error, HTTPError):
        why = " ".join(str(error).split())[:120] or type(error).__name__
        return (f"the Hub at {constants.ENDPOINT} cannot be reached ({why}); check the network, "
                "proxies and HF_ENDPOINT")  # fmt: skip
    return ""


def line(
    name: str, revision: str | None, error: Exception, offline: str = "", *, opening: bool = False
) -> str:
    """What kept a model from being fetched, in a line with the remedy.

    `opening` says that it is not known yet whether the Hub has a model of this name.
    """
    for cause in _causes(error):
        said = _of_disk(name, cause)
        if not said and opening and _is_missing(cause):
            return (f"{name}: no such directory here, and no model of this name on the Hub, unless "
                    "it is private; check the name, or log in with `hf auth login` or HF_TOKEN"
                    )  # fmt: skip
        said = said or _of_hub(name, revision, cause, offline)
        if said:
            return said
    from huggingface_hub import constants

    why = " ".join(str(error).split())[:200] or type(error).__name__
    return (f"{name}: cannot be fetched from {constants.ENDPOINT} ({why}); give the command again, "
            "or fetch it in another way and give the directory")  # fmt: skip


def _is_missing(error: BaseException) -> bool:
    """Whether the Hub says that there is no such repository, or none that may be seen."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError | errors.RevisionNotFoundError):
        return False
    if not isinstance(error, errors.HfHubHTTPError) or _is_unknown_token(error):
        return False
    return error.response.status_code in (401, 404)


def _is_unknown_token(error: Any) -> bool:
    said = error.response.headers.get("X-Error-Message")
    return said == "Invalid credentials in Authorization header"


def _of_disk(name: str, error: BaseException) -> str:
    if not isinstance(error, OSError) or error.errno is None:
        return ""
    cache, why = cache_directory(), os.strerror(error.errno)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return (f"{name}: no space left in {cache}; free some, or set HF_HOME to another place, "
                "and give the command again")  # fmt: skip
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
        return f"{name}: {cache} cannot be written ({why}); set HF_HOME to another place"
    return ""


def _of_hub(name: str, revision: str | None, error: BaseException, offline: str) -> str:
    from huggingface_hub import constants, errors

    page = f"{constants.ENDPOINT}/{name}"
    if isinstance(error, errors.LocalEntryNotFoundError):
        where = f"its copy in {cache_directory()}"
        return f"{name}: {where} lacks files, and {offline}" if offline else ""
    if isinstance(error, errors.GatedRepoError):
        return (f"{name}: is gated on the Hub; ask for access at {page}, then log in with "
                "`hf auth login` or set HF_TOKEN")  # fmt: skip
    if isinstance(error, errors.DisabledRepoError):
        return f"{name}: was disabled on the Hub, see {page}; choose another model"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{name}: has no revision '{revision}' on the Hub; {page}/tree/main lists them"
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return f"{name}: lost a file while it was fetched; give the command again"
    if isinstance(error, errors.HfHubHTTPError) and error.response.status_code < 500:
        return _of_status(name, error)
    reason = unreachable(error) if isinstance(error, Exception) else ""
    return f"{name}: cannot be fetched: {reason}; files that are whole are kept" if reason else ""


def _of_status(name: str, error: Any) -> str:
    """What the Hub's refusal means."""
    code = error.response.status_code
    if _is_unknown_token(error):
        return (f"{name}: the Hub does not know your token; log in with `hf auth login`, or "
                "correct or unset HF_TOKEN")  # fmt: skip
    if code in (401, 403):
        return (f"{name}: the Hub does not let you read it ({code}); log in with an account, or "
                "set an HF_TOKEN, that may")  # fmt: skip
    if code == 404:
        return (f"{name}: the Hub does not have {error.response.url.path}, though it lists it; "
                "give the command again, or another --revision")  # fmt: skip
    if code == 429:
        return f"{name}: the Hub has had too many requests (429); wait, or log in with HF_TOKEN"
    return ""

"""Inventory: every file of a model directory and every entry of its settings files, and what became
of each: used, without effect, or refused."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from canao.artifact.reading import SETTINGS_BYTES, fits, read_json, shown
from canao.errors import InputError, UnsupportedError
from canao.model.inventory.table import INERT, REFUSED, USED, Entry, Table
from canao.model.inventory.tables.files import FILES, NOT_ASKED, READ, UNKNOWN

# What a table does not know may be decided by whoever reads the file.
Unlisted = Callable[[str, Any], "Entry | None"]
_REMOVE = "take it out if the model computes the same without it, or give --ignore {name}"
_FOLDER = "no settings file names the folder"
# What is noted of a refused finding that `--ignore` names.
IGNORED = "ignored on request"


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of a file, or of one entry of it.

    file     relative to the model directory
    entry    'a' or 'a.b'; empty for the file as a whole
    status   USED, INERT or REFUSED
    note     what it decides, why it has no effect, or why it is refused and what to do
    """

    file: str
    entry: str
    status: str
    note: str

    @property
    def name(self) -> str:
        """As `--ignore` takes it: 'config.json:pruned_heads', or the name of a file."""
        return f"{self.file}:{self.entry}" if self.entry else self.file


class Inventory:
    """What was found in one model directory so far.

    `ignored` are names of findings, or patterns of them as of file names, that would be refused and
    that the user vouches for, as `--ignore` does: they become INERT and stay listed.
    """

    def __init__(self, root: Path, ignored: Collection[str] = ()) -> None:
        self.root = root
        self._unused = {pattern: True for pattern in ignored}
        self._swept: list[Path] = []
        self._findings: dict[tuple[str, str], Finding] = {}

    def settings(
        self, path: Path, table: Table, unlisted: Unlisted = lambda name, value: None,
        *, values: Mapping[str, Any] | None = None, inside: str = "",
    ) -> dict[str, Any]:  # fmt: skip
        """The entries of a settings file that are used, each of its type.

        The file is read, or `values` are what was read of it; with `inside` they are those of one
        of its entries. What the table does not know is passed to `unlisted`, and is refused if that
        does not know it either. Nothing is raised for a refused entry before `require`; InputError
        for a file that cannot be read.
        """
        held = read_json(path, limit=SETTINGS_BYTES) if values is None else values
        self.file(path, USED, "settings")
        kept = {}
        for name, value in held.items():
            place = f"{inside}.{name}" if inside else name
            entry = table.find(name) or unlisted(name, value)
            status, note = self._judge(self.relative(path), place, value, entry)
            self.note(path, place, status, note)
            if status == USED:
                kept[name] = value
        return kept

    def file(self, path: Path, status: str, note: str) -> None:
        """Note what becomes of a file as a whole; a later note replaces an earlier one."""
        self.note(path, "", status, note)

    def note(self, path: Path, entry: str, status: str, note: str) -> None:
        """Note what becomes of an entry."""
        file = self.relative(path)
        finding = Finding(file, entry, status, note)
        vouched = (status == REFUSED or note == IGNORED) and self._is_ignored(finding.name)
        if vouched:
            finding = Finding(file, entry, INERT, IGNORED)
        self._findings[file, entry] = finding

    def refuse(self, path: Path, entry: str, why: str) -> None:
        """Note that an entry, or a file, is refused: what is wrong, and the remedy."""
        self.note(path, entry, REFUSED, why)

    def sweep(self, folder: Path) -> None:
        """Judge by its name every file of a folder, but for those that have a reader."""
        try:
            found = sorted(folder.iterdir())
        except OSError as error:
            raise InputError(f"{folder}: cannot be listed ({error.strerror}); check it") from None
        self._swept.append(folder)
        for path in found:
            if self.knows(path) or _has_reader(path):
                continue
            if path.is_dir():
                self.file(path, INERT, _FOLDER)
                continue
            entry = next((e for pattern, e in FILES if fnmatchcase(path.name, pattern)), None)
            if entry is None:
                self.refuse(path, "", UNKNOWN.format(name=self.relative(path)))
            else:
                self.file(path, entry.status, entry.does)

    def close(self) -> None:
        """After everything was read: note the files that have a reader which nothing called.
        Folders that were read into are no longer findings of their own.

        UnsupportedError as of `require`; InputError if something is ignored that is not refused.
        """
        self.require()
        for folder in self._swept:
            for path in sorted(folder.iterdir()):
                if not self.knows(path) and not path.is_dir():
                    self.file(path, INERT, NOT_ASKED)
        read = {f.file.rpartition("/")[0] for f in self.findings if "/" in f.file}
        for name in read:
            self._findings.pop((name, ""), None)
        unused = [pattern for pattern, is_unused in self._unused.items() if is_unused]
        if unused:
            raise InputError(
                f"--ignore {unused[0]}: nothing of this name is refused in {self.root}; "
                "leave it out"
            )

    def relative(self, path: Path) -> str:
        """A path as findings name it."""
        try:
            return path.relative_to(self.root).as_posix()
        except ValueError:
            return str(path)

    def knows(self, path: Path) -> bool:
        """Whether something was noted of the file as a whole."""
        return (self.relative(path), "") in self._findings

    @property
    def findings(self) -> tuple[Finding, ...]:
        return tuple(self._findings.values())

    @property
    def left_out(self) -> tuple[Finding, ...]:
        """What was found without effect."""
        return tuple(f for f in self.findings if f.status == INERT)

    @property
    def refusals(self) -> tuple[Finding, ...]:
        return tuple(f for f in self.findings if f.status == REFUSED)

    def require(self) -> None:
        """UnsupportedError if anything was refused: the first, and how many more there are."""
        found = self.refusals
        if found:
            raise UnsupportedError.refused([f"{self.root}/{f.file}: {f.note}" for f in found])

    def _is_ignored(self, name: str) -> bool:
        matching = [p for p in self._unused if p == name or fnmatchcase(name, p)]
        self._unused.update(dict.fromkeys(matching, False))
        return bool(matching)

    def _judge(
        self, file: str, place: str, value: Any, entry: Entry | None
    ) -> tuple[str, str]:
        if entry is None:
            remedy = _REMOVE.format(name=f"{file}:{place}")
            return REFUSED, f"'{place}' ({shown(value)}) is not known to CANAO; {remedy}"
        if entry.status == REFUSED:
            return REFUSED, f"'{place}' ({shown(value)}) is not supported; {entry.does}"
        wrong = fits(value, entry.kind)
        if wrong is not None:
            return REFUSED, f"'{place}' {wrong}; correct it"
        if entry.only is not None and not any(_same(value, one) for one in entry.only):
            few = ", ".join(shown(one) for one in entry.only)
            remedy = entry.remedy or "correct it"
            return REFUSED, f"'{place}' is {shown(value)}, and only {few} is understood; {remedy}"
        return entry.status, entry.does


def _has_reader(path: Path) -> bool:
    return any(fnmatchcase(path.name, pattern) for pattern in READ)


def _same(value: Any, other: Any) -> bool:
    """Equal and of one type: true is not 1."""
    return type(value) is type(other) and value == other

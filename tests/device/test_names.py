"""What `--device` takes, and what it is told to be."""

from __future__ import annotations

from pathlib import Path

import pytest

from canao import api
from canao.device.names import FORMS, HELP, KINDS, Candidate, candidates
from canao.errors import InputError


def test_every_kind_is_in_help_and_errors() -> None:
    with pytest.raises(InputError, match="device 'toaster' is not one of") as caught:
        api.get_device("toaster")
    for form in FORMS:
        assert form in HELP and form in str(caught.value) and "," not in form
    assert [kind.name for kind in KINDS] == ["local", "ssh", "adb", "opencl", "qemu", "null"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("local:1", "give local"), ("null:", "give null"), ("ssh", r"give ssh:\[USER@\]HOST"),
        ("ssh:", r"give ssh:\[USER@\]HOST"), ("adb:", r"give adb\[:SERIAL\]"),
        ("local,null", "names several"), ("", "is not one of local"), ("Local", "is not one of"),
    ],
)  # fmt: skip
def test_texts_that_name_nothing(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        api.get_device(text)


def test_those_that_there_are() -> None:
    assert api.get_device().name == "local" and api.get_device("null").name == "null"
    assert [one.name for one in api.devices_of("local, null")] == ["local", "null"]


def test_candidates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What keeps a kind from being listed is a note, and the others are listed."""
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh/config").write_text("Host board *.lan\n  User me\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", "1")
    found, notes = candidates()
    assert found[0] == Candidate("local", "this machine") and found[-1].device == "null"
    assert Candidate("ssh:board", "named in ~/.ssh/config") in found
    assert any(note.startswith("adb: no server answers") for note in notes)

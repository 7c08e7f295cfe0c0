"""Names of models in the C that is made of them: no name ends a string or a comment."""

from __future__ import annotations

import subprocess

import pytest

from canao.build import build_program
from canao.emit.c.interface import c_comment, c_string
from canao.target import get_target

TEXTS = ("logits", "", 'say "x"', "a\\b\\", "??/??=", "a\nb\r\tc", "%s%n", "é 日本 \x7f", "\x011",
         '");system("true");//', "*/ int x; /*", "".join(map(chr, range(1, 256))))  # fmt: skip


def test_strings_are_what_they_were() -> None:
    lines = "".join(f"    fputs({c_string(text)}, stdout); putchar(0);\n" for text in TEXTS)
    made = build_program(
        {"main.c": f"#include <stdio.h>\nint main(void) {{\n{lines}    return 0;\n}}\n"},
        get_target(), None, ("-Werror",),
    )  # fmt: skip
    said = subprocess.run([str(made)], capture_output=True, check=True).stdout
    assert said.split(b"\0")[:-1] == [text.encode() for text in TEXTS]


@pytest.mark.parametrize("text", [*TEXTS, "**//", "*\n/", "*/*/"])
def test_comments_end_where_they_should(text: str) -> None:
    said = c_comment(text)
    assert "*/" not in said and "\n" not in said and "\r" not in said

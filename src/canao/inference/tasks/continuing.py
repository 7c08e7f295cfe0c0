"""Text after a text. The loaded model writes it, token by token (`CompiledModel.stream`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from canao.inference.generation import SETTINGS, described, settings_of
from canao.inference.tasks.prepared import Prepared
from canao.inference.tasks.task import OF_TOKENS, Manifest, Option, Task

GENERATION = "text-generation"


class Continuing(Task):
    """Its results are strings, which are read from no outputs here."""

    name = GENERATION
    options: ClassVar[Mapping[str, Option]] = dict.fromkeys((*SETTINGS, "seed", "stop"), Option())
    per, scored = OF_TOKENS, True

    def check(self, given: Mapping[str, Any], manifest: Manifest) -> None:
        settings_of(manifest.get("generation") or {},
                    {k: v for k, v in given.items() if k in SETTINGS})  # fmt: skip

    def form(self, prepared: Prepared, result: Any) -> dict[str, Any]:
        return {"generated": result}

    def described(self, head: Manifest) -> Iterator[tuple[str, str]]:
        if "generation" in head:
            said = described(head.get("generation") or {}, head.get("stop_tokens") or ())
            yield "decoding", said

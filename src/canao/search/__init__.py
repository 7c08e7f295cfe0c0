"""Architecture search: the loop, and what it asks: controllers, the latency
table, the study. May import
train, compiler, device and what is below them.

Names load when they are used: reading the options of a search must not load Optuna.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from canao.search.candidates.space import Space
    from canao.search.candidates.trial import Trial
    from canao.search.certification import SearchResult
    from canao.search.loop import run_search
    from canao.search.options import Event, SearchOptions

__all__ = [
    "Event",
    "SearchOptions",
    "SearchResult",
    "Space",
    "Trial",
    "run_search",
]
_HOMES = {
    "Event": "options",
    "SearchOptions": "options",
    "SearchResult": "certification",
    "Space": "candidates.space",
    "Trial": "candidates.trial",
    "run_search": "loop",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'canao.search' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"canao.search.{_HOMES[name]}"), name)

"""Architecture search: controllers, the loop, the latency table and the guarantee.

Names load when they are used: reading the options of a search must not load Optuna.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from canao.search.certification import SearchResult
    from canao.search.guarantee import Certificate, certify, load_certificate, require
    from canao.search.loop import run_search
    from canao.search.options import Event, SearchOptions
    from canao.search.space import Space
    from canao.search.trial import Trial

__all__ = [
    "Certificate",
    "Event",
    "SearchOptions",
    "SearchResult",
    "Space",
    "Trial",
    "certify",
    "load_certificate",
    "require",
    "run_search",
]
_HOMES = {
    "Certificate": "guarantee",
    "Event": "options",
    "SearchOptions": "options",
    "SearchResult": "settle",
    "Space": "space",
    "Trial": "trial",
    "certify": "guarantee",
    "load_certificate": "guarantee",
    "require": "guarantee",
    "run_search": "loop",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'canao.search' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"canao.search.{_HOMES[name]}"), name)

"""Architecture search: controllers, the loop, the latency table and the guarantee."""

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

"""The command line of speed.py."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from peers.catalog import MEASURED, entrants
from peers.models import MODELS
from peers.results import add_options

from canao.errors import InputError
from canao.precision.quantize import FLOAT32

LENGTHS = "8,16,32,64,128,384"
REDUCED_LENGTHS = "8,32,128"


def names(text: str, known: Sequence[str], what: str) -> tuple[str, ...]:
    """Names by commas; InputError for one that is not known."""
    names = tuple(text.split(","))
    for name in names:
        if name not in known:
            raise InputError(f"{what} '{name}' is not one of {', '.join(known)}")
    return names


def numbers(text: str, what: str, least: int = 1) -> tuple[int, ...]:
    """Whole numbers by commas; InputError for one under the least."""
    words = text.split(",")
    if not all(word.isdigit() and int(word) >= least for word in words):
        raise InputError(f"{what} '{text}': give whole numbers from {least}, by commas")
    return tuple(int(word) for word in words)


def parse(arguments: Sequence[str], records: Path) -> argparse.Namespace:
    """The options of the command line, with defaults that suit the precision."""
    parser = argparse.ArgumentParser(description="CANAO and its peers in interleaved runs.")
    parser.add_argument("--table", action="store_true", help="write the tables and end")
    parser.add_argument("--work", type=Path, help="folder for models and conversions")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--precision", default=FLOAT32, choices=MEASURED,
                        help="engines in this precision, each beside itself in float32")
    parser.add_argument("--isa", default="",
                        help="CANAO alone, compiled for a narrower instruction set than this "
                             "machine has, such as avx2 where there is VNNI")
    parser.add_argument("--lengths", help="tokens of the text")
    parser.add_argument("--threads", help="default: 1,2; in another precision than float32: 1")
    parser.add_argument("--engines", help="default: all of the precision")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--block", type=float, default=0.3, help="seconds of an engine's turn")
    parser.add_argument("--cores", help="cores to use; default: all allowed ones, in order")
    parser.add_argument("--mrpc", type=Path, metavar="DATA", help="folder with train and dev.tsv")
    parser.add_argument("--stream", action="store_true", help="with --mrpc: as a stream")
    parser.add_argument("--texts", type=int, default=0, help="of MRPC, at most (0: all)")
    parser.add_argument("--families", action="store_true",
                        help="small models of all families against ONNX Runtime, at 128 tokens")
    parser.add_argument("--roofline", action="store_true", help="CANAO's kernels, at 128 tokens")
    parser.add_argument("--again", action="store_true", help="replace records")
    add_options(parser, records)
    options = _filled(parser.parse_args(arguments))
    if not options.table and not options.work:
        parser.error("give --work, or --table")
    if options.stream and not options.mrpc:
        parser.error("--stream needs --mrpc")
    if options.table and options.draft:
        parser.error("no table is made of drafts")
    if options.precision != FLOAT32 and (options.mrpc or options.families):
        parser.error("--precision is for latencies and --roofline, not for --mrpc or --families")
    if options.isa and (options.mrpc or options.families or options.roofline):
        parser.error("--isa is for latencies")
    if options.rounds < 1 or options.block <= 0 or options.texts < 0:
        parser.error("--rounds is at least 1, --block over 0, --texts not negative")
    return options


def _filled(options: argparse.Namespace) -> argparse.Namespace:
    """Options with the defaults that depend on the precision."""
    plain = options.precision == FLOAT32
    options.lengths = options.lengths or (LENGTHS if plain else REDUCED_LENGTHS)
    options.threads = options.threads or ("1,2" if plain else "1")
    options.engines = options.engines or ",".join(entrants(options.precision, options.isa))
    return options

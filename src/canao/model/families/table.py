"""The table of families."""

from __future__ import annotations

import re
from typing import Any

from canao.model.arch import BLOCK_FAMILY
from canao.model.families.blocks import Blocks
from canao.model.families.distilbert import DistilBert
from canao.model.families.electra import Electra
from canao.model.families.family import Family
from canao.model.families.mobilebert import MobileBert
from canao.model.families.roberta import Roberta

# By model_type. A family that can be a teacher is a row here and a module beside.
FAMILIES: dict[str, Family] = {
    "bert": Family(),
    BLOCK_FAMILY: Blocks(),
    "distilbert": DistilBert(),
    "roberta": Roberta(),
    "xlm-roberta": Roberta(),
    "camembert": Roberta(),
    "electra": Electra(),
    "mobilebert": MobileBert(),
}

_LAYERS = "|".join(re.escape(path) for path in {f.layers: 0 for f in FAMILIES.values()})
_HALVES = {name: half for f in FAMILIES.values() for name, half in f.halves.items()}
_HALF = re.compile(rf"(?:^|\.)(?:{_LAYERS})\.(\d+)\.({'|'.join(_HALVES)})(?:\.|$)")


def family_of(config: Any) -> Family:
    """The family of a configuration, which `hf.load_config` read."""
    return FAMILIES[config.model_type]


def half_of(path: str) -> int:
    """In which half of a layer the module at a path is: 2 * layer for its attention, and one more
    for its FFN; -1 for what is in no layer."""
    found = _HALF.search(path)
    return -1 if found is None else 2 * int(found[1]) + _HALVES[found[2]]

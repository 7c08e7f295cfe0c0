"""PyTorch -> LiteRT, in LiteRT's environment.

python -m peers.convert_litert MODEL FOLDER FILE LENGTH
"""

from __future__ import annotations

import sys

import litert_torch
import torch

from peers.models import load_encoder


def main(name: str, folder: str, out: str, length: str) -> None:
    """Write a model of static shape."""
    ids = torch.zeros(1, int(length), dtype=torch.long)
    litert_torch.convert(load_encoder(name, folder), (ids, torch.ones_like(ids))).export(out)


if __name__ == "__main__":
    main(*sys.argv[1:])

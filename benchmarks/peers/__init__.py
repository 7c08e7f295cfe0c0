"""The harness of speed.py: models, conversions, one worker process an engine, interleaved runs.

`protocol` and the modules of the engines run in the engines' own environments, where there may be
no canao and no torch; the others run in CANAO's.
"""

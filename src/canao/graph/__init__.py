"""The IR: immutable graphs, one table of operators with their shapes and meanings, and importers
that make graphs of models. May import errors only; knows no kernel, no machine and no C."""

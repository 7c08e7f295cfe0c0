"""The IR: immutable graphs, one table of operators with their shapes and meanings, and importers
that make graphs of models. May import artifact, defaults and errors; knows no kernel and no
machine. The table also holds how code computes each operator, an expression of vectors, which only
emit reads."""

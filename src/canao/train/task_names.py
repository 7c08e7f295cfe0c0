"""The names of the tasks that students are trained for. Loads no torch: the command line asks."""

from __future__ import annotations

CLASSIFICATION, REGRESSION = "text-classification", "text-regression"
WORDS, SEVERAL = "token-classification", "multi-label-classification"
VECTORS = "sentence-embedding"
# The module of each in tasks/.
HOMES = {
    CLASSIFICATION: "classes",
    REGRESSION: "values",
    WORDS: "words",
    SEVERAL: "several",
    VECTORS: "vectors",
}
TASKS = tuple(HOMES)

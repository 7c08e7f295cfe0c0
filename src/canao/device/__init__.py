"""Where a library runs, how long it took there, and whether it keeps a budget. May import build,
inference and what is below them; knows no compiler and no search."""

"""Where a library runs, how long it took there, and whether it keeps a budget. May import inference
and what is below it; knows no compiler and no search."""

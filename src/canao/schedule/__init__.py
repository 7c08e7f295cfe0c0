"""How each kernel runs, as values: steps, operands, plans, memory, weights, the cache of keys and
values, and the database of measured plans. May import fuse, graph and errors; knows no backend and
no C."""

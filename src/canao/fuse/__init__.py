"""Fewer, larger kernels: the rewriting engine, the planner that groups operators into regions, and
its measured decisions. May import graph, defaults and errors; knows no machine, no tiles and no
C."""

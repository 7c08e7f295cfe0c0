"""Graphs whose products run in another precision: which of them, and what they become. May import
graph, defaults and errors; knows no machine."""

"""Graphs whose products run in another precision: which of them, and what they become. May import
graph and errors; knows no machine."""

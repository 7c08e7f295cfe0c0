"""A run of the search as one HTML page, and as tables for programs. May import search, whose files
it reads, model/arch.py, artifact, defaults and errors; measures nothing."""

"""Families of teachers, a module each: where their modules are and what their settings mean. What
trains and searches sees roles (`parts.py`) and knows no family."""

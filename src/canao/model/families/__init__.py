"""Families of teachers, a module each: where their modules are, what their settings mean, and what
their students are. What trains and searches sees roles (`parts.py`) and knows no family. May import
model/arch.py, model/blocks.py, model/heads.py and errors."""

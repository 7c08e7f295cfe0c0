"""Families of teachers, a module each: where their modules are, what their settings mean, and what
their students are. What trains and searches sees roles (`parts.py`) and knows no family. May import
architectures and models of blocks (model/arch.py, model/blocks.py), and errors."""

"""Instruction sets: a module each, with its vector operations and registers. May import nothing of
canao: a new instruction set is one file and its line in the registry."""

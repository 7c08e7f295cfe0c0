"""Instruction sets: a module each, with its vector operations and registers. Imports nothing."""

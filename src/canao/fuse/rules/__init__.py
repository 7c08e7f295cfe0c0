"""Rewrites that keep what a graph computes, a module for each purpose. May import fuse/rewrite.py,
fuse/access.py, fuse/forms, graph and errors."""

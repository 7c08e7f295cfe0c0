"""Rewrites that keep what a graph computes, a module for each purpose. May import the rewriting
engine, access and forms from fuse, and graph."""

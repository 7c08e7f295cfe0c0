"""The kinds of kernel that exist, and which groups of operators have them. May import graph, and
from fuse only access."""

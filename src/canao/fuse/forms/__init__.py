"""The kinds of kernel that exist, and which groups of operators have them. May import
fuse/access.py and graph."""

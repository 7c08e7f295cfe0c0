"""The kinds of kernel that exist, and which nodes have them."""

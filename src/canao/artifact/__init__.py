"""What a compilation leaves behind, and how files are written whole."""

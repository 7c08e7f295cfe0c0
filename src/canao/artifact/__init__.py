"""What a compilation leaves behind: the artifact's directory, its certificate, and files that are
written whole. May import isa/table.py and errors, so that nearly every other room can read and
write artifacts."""

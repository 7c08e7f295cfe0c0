"""What a compilation leaves behind: the artifact's directory, its certificate, and files that are
written whole. May import errors only, so that every other room can read and write artifacts."""

"""Checkpoints: the file, other programs' files, and the networks that are built from them."""

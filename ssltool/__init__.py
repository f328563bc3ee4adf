"""Pretrain without labels, and see whether the representations collapsed."""

__version__ = "0.1.0"

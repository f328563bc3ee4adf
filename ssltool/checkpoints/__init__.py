"""Checkpoints: ssltool's file format, checkpoints of other programs, and building networks from both."""

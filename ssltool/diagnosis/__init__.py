"""Collapse: metrics, the exact spectrum, the verdict, and the monitor during training."""

"""Exact nearest neighbours of representations, and kNN classification."""

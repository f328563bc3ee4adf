"""Exact nearest neighbours among representations, and their votes."""

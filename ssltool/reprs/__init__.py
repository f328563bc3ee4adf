"""Representations: the file, groups of files, extraction, other formats, nearest neighbours."""

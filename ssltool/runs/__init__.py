"""Run folders: writing, resuming, repeating and reading runs."""

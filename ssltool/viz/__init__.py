"""Figures: spectra, curves, schedules, pictures."""

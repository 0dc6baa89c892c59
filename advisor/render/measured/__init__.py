"""Measured runs arranged for comparison: as curves, as sentences, as figures and as a folder."""

"""Predictions against measurements: errors, coverage, rankings, rivals, and what each part of the fit buys."""

"""Figures of answers as Vega-Lite specifications: the same for the app, for reports and for PNG files."""

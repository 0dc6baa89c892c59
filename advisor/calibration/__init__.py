"""From measured runs to parameters with their uncertainty: evidence, posterior, calibration, and what ships."""

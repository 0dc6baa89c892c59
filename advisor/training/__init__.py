"""Training: memory by part, the time of a step, and layouts that fit, for one model on one cluster."""

"""Exploring deployments: the valid ones, the Pareto front, and the Optuna study that keeps every answer."""

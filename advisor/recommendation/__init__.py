"""The deployment that serves a workload best: the search problem, its answer, what would relax it, how to start it."""

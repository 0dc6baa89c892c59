"""Requests in an engine: who sends them, when each step runs whom, what a run of it says."""

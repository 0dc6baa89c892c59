"""Which probe next: beliefs about candidates, what a measurement would change, live rounds and replays."""

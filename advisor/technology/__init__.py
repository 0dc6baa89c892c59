"""Technology explored: GPUs made of other logic, memory and links, what they would do, and where the bottleneck moves."""

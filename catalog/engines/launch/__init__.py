"""A deployment as what starts it: commands, scripts, Docker Compose, Kubernetes."""

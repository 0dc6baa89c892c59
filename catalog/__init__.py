"""What is known: models, GPUs, engines, prices and measured runs, and the types everyone shares."""

"""A deployment as what serving platforms take: KServe, llm-d, Dynamo, Ray Serve, SkyPilot, the vLLM production stack."""

"""vLLM behind the sampler interface."""

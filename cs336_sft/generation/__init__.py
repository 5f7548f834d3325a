"""Samplers: prompts in, generations out.

Read `sampler.py` first (the settings and what every sampler promises), then `hf_sampler.py` with `seeded_noise.py`
(its random numbers) and `response_text.py` (ids to text, stop strings). `vllm_backend/` is the same interface on vLLM.
"""

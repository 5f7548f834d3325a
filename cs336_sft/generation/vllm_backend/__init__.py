"""vLLM with the sampler interface: start with `sampler.py`.

`engine.py` speaks to ``vllm.LLM``, `runtime.py` undoes what an engine changes, `weights.py` hands the policy over.
"""

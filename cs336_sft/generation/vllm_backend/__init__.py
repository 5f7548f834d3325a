"""vLLM with the sampler interface: start with `sampler.py`.

`engine.py` speaks to ``vllm.LLM``, `runtime.py` undoes what an engine changes in the process; `weights.py` gives the
policy's weights and `worker.py` puts them into the engine.
"""

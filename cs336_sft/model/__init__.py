"""The model: loading it, adapting it, and what its memory goes to.

Read ``loading``, ``output_head`` and ``chunked_head`` first; ``memory_*``, ``batch_size`` and ``logprob_variants``
belong to lesson 10.
"""

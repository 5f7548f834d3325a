"""The model: loading it, adapting it, and what its memory goes to.

Read ``loading`` first, then ``output_head`` and ``chunked_head`` (log-probabilities without logits, for the loss; on a
GPU ``triton_head``). The ``memory_*`` files, ``batch_size`` and ``logprob_variants`` belong to lesson 10.
"""

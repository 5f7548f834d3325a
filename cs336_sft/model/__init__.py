"""The model: loading it, adapting it, and what its memory goes to.

Read ``loading`` first (a folder or name becomes model and tokenizer), then ``output_head`` and ``chunked_head``
(log-probabilities without logits, which the loss uses). ``triton_head`` is the same on a GPU, ``lora`` trains a small
update, ``shape`` knows sizes and limits, and the ``memory_*`` files, ``batch_size`` and ``logprob_variants`` belong to
lesson 10.
"""

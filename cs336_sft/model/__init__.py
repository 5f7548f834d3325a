"""Models: loading, LoRA, the output head, memory."""

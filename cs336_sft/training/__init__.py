"""Supervised fine-tuning.

Read ``step`` first, then ``loop`` (``train_sft``) and ``schedules``. ``session`` resumes runs, ``checkpoints``,
``run_directory`` and ``result`` are their files, ``distributed`` and ``fsdp`` serve several processes.
"""

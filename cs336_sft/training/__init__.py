"""Supervised fine-tuning.

Read ``step`` first (one optimizer step), then ``loop`` (``train_sft``: evaluate, step, log, checkpoint) and
``schedules``. ``config`` has the settings, ``session`` resumes runs, ``checkpoints``, ``run_directory`` and ``result``
are their files, ``checks`` and ``setup`` come before the first step, ``distributed`` and ``fsdp`` serve several
processes.
"""

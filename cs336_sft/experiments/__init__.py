"""Whole runs: their configuration, one run of fine-tuning or expert iteration, sweeps, records and figures.

Read ``config`` first, then ``run``.
"""

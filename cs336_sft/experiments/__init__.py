"""Whole runs: their configuration, one run of fine-tuning or expert iteration, sweeps, records and figures.

``config`` and ``profiles`` say what a run is made of; ``run`` and ``run_expert_iteration`` make one; ``grid`` and
``sweep`` make many, ``record`` and ``ei_record`` keep what they measured; ``summary``, ``plots`` and ``ei_plots`` show
it; ``doctor`` checks the machine. Read ``config`` first, then ``run``.
"""

"""Generations graded, measured and compared.

Read `evaluate` first. `metrics` and `intervals` define the numbers, `outcomes` and `truncation` explain differences.
"""

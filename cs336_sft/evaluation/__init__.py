"""Generations graded, measured and compared."""

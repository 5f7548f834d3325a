"""Generations graded, measured and compared.

Read `evaluate` first: prompts, generations, rewards and metrics in one function, and what keeps generations safe.
`metrics` and `intervals` define the numbers, `generations_file` the file format, `outcomes` and `truncation` explain
differences, `response_scores` has the validation loss, `handout` the names of the assignment.
"""

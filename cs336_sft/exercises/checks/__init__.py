"""One module an exercise, each with ``CHECKS``: cases, reference and known slips of its functions.

Begin with ``ex03``. Nothing of the learner's runs here; ``tokens`` is what ex02 and ex09 share, ``objects`` are the
small models and tokenizers that the cases need.
"""

"""Policy gradients with groups of answers to one question (GRPO): rewards become advantages, advantages a loss.

Read `advantages` first, then `losses`. The functions have the CS336 handout's names and signatures (2025).
"""

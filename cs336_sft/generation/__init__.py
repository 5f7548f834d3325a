"""Samplers: prompts in, generations out."""

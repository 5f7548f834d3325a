"""Measurements and pictures that only the notebooks use.

Read `token_views` first: it shows which tokens the loss counts (lesson 02).
"""

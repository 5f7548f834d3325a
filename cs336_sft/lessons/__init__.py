"""Measurements and pictures that only the notebooks use.

Each file belongs to one lesson, and says so by its name. Read `token_views` first: it shows which tokens the loss
counts (lesson 02). Nothing else in the package imports from here.
"""

"""Profiles, runs, sweeps and their records."""

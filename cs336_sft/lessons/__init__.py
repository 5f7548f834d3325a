"""Measurements and pictures that only the notebooks use.

Read `common` first, which every lesson uses: what a claim is, and when a difference is called higher or lower.
`learner` keeps what is the learner's own.
"""

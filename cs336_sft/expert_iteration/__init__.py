"""Expert iteration: train a model on its own correct answers, in rounds.

Read first ``loop`` (Algorithm 2 in one function), then ``selection``. To run it from one configuration, with data and
model, see ``experiments.run_expert_iteration``.
"""

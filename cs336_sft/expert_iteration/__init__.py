"""Expert iteration: train a model on its own correct answers, in rounds.

Read first ``loop`` (Algorithm 2 in one function), then ``selection`` (which samples are trained on). ``rollouts``
caches samples on disk, ``metrics`` measures a round, ``run_folder`` keeps a run: resuming, several processes, results.
To run it from one configuration, with data and model, see ``experiments.run_expert_iteration``.
"""

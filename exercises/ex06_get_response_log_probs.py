"""ex06. The log-probability of every label, given what stands before it.

Topic: log-probabilities. Difficulty 2 of 5, about 20 minutes. Taught in notebook 02_masked_loss.
Check it with `cs336-sft check ex06`; stuck? `cs336-sft hint ex06`.

get_response_log_probs(model, input_ids, labels, return_token_entropy=False) -> dict
    model       model(input_ids).logits is [B, T, V]: logits[b, t] is the distribution after input_ids[b, : t + 1]
    input_ids   int64 [B, T]
    labels      int64 [B, T]: labels[b, t] is what position t must predict; the two are already shifted
    returns     {"log_probs": [B, T]} in nats, differentiable; with return_token_entropy also "token_entropy": [B, T],
                the entropy of each position's whole distribution in nats (graph or not, as you like)

Nothing is masked here: prompt and padding have values too. Huge logits must not make inf or nan.

By hand, V = 2, logits [0, log 3] everywhere, so p = [1/4, 3/4]; labels
    1 1 0 0      log_probs  -0.29 -0.29 -1.39 -1.39      token_entropy  0.56 everywhere
    0 1 1 1                 -1.39 -0.29 -0.29 -0.29
"""

from __future__ import annotations

import torch


def get_response_log_probs(
    model: torch.nn.Module, input_ids: torch.Tensor, labels: torch.Tensor, return_token_entropy: bool = False
) -> dict[str, torch.Tensor]:
    """Log-probabilities of the labels, and entropies if asked for."""
    raise NotImplementedError

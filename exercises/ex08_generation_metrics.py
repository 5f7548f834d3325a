"""ex08. The numbers of an evaluation.

Topic: grading. Difficulty 2 of 5, about 15 minutes. Taught in notebook 04_first_sft_run.
Check it with `cs336-sft check ex08`; stuck? `cs336-sft hint ex08`.

compute_metrics(graded) -> dict
    graded    a sequence of Graded records, at least one: format_reward, answer_reward, reward, lenient (0.0 or 1.0
              each), and generation, with token_ids (maybe none; end-of-text included), text and finish_reason, which
              is "stop" or "length"
    returns   four floats
        accuracy         share with reward: the format is there and the answer in it is right
        format_accuracy  share with format_reward
        trunc_rate       share that the length limit ended
        avg_gen_len      mean number of generated tokens, of all generations

Shares are fractions from 0 to 1 of *all* generations. `graded` stays as it is.

By hand, two generations (reward, format_reward, finish_reason, tokens):
    1 1 stop   4        accuracy 0.5, format_accuracy 1.0, trunc_rate 0.5, avg_gen_len 6.0
    0 1 length 8
"""

from __future__ import annotations


def compute_metrics(graded) -> dict[str, float]:
    """accuracy, format_accuracy, trunc_rate and avg_gen_len."""
    raise NotImplementedError

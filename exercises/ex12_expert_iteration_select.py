"""ex12. Expert iteration: which samples to train on.

Topic: expert iteration. Difficulty 2 of 5, about 20 minutes. Taught in notebook 09_expert_iteration.
Check it with `cs336-sft check ex12`; stuck? `cs336-sft hint ex12`.

select_samples(graded, max_per_question=None) -> list
    graded             a sequence of Graded records, several samples a question, questions mixed, maybe none at all:
                       problem.id names the question, generation.text is the sample, reward is 1.0 for a correct one
    max_per_question   at most this many of one question (0: nothing); None: no cap
    returns            the selected records, in the order given; graded stays as it is

Three rules, in this order:
1. Only correct samples (reward; not answer_reward, not lenient).
2. No duplicates: of the samples of one question whose text is the same (blanks at both ends aside) the first stays. The
   same text under another question is another sample.
3. At most max_per_question of what is left of each question, the first ones.

If nothing is correct the selection is empty. That is no error: the round then trains on nothing.

By hand, cap 2, question and text (* is correct), in order:
    A x*   B y    A x*   A z*      kept: A x, A z, B w
    A v*   B w*   C y    A x
"""

from __future__ import annotations


def select_samples(graded, max_per_question: int | None = None) -> list:
    """The samples that a round of expert iteration trains on."""
    raise NotImplementedError

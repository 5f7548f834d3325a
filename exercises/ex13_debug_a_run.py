"""ex13. Debug a run: six faults are planted below. Find them and mend them.

Topic: training. Difficulty 5 of 5, about 60 minutes. Taught in notebook 04_first_sft_run.
Check it with `cs336-sft check ex13`; stuck? `cs336-sft hint ex13`.

train(model, examples, pad_id, *, epochs, batch_size, microbatch_size, learning_rate) -> list of floats
    model      model(input_ids).logits is [B, T, V]; trained in place
    examples   Example records: prompt_ids and response_ids, the latter ending with end-of-text
    pad_id     the padding id; as in the Qwen base models it is the id of end-of-text too
    returns    one loss for each optimizer step: the mean negative log-likelihood of the step's target tokens, in nats

What a right run does:
- Batches are taken in the order given, batch_size examples each; the last one of an epoch may be smaller.
- A batch is one optimizer step, cut into microbatches to save memory: the weights after it do not depend on how it
  is cut.
- Every response token is a target, the first one and end-of-text included; prompt and padding are not.
- Every target token of a batch weighs the same.
- Plain SGD at learning_rate; the gradient of the whole batch is clipped to norm 1 before the update.

Six things below are wrong: two in make_batch, four in train. Each alone lets the loss fall nicely. The optimizer, the
clipping norm and the order of examples are right. The check trains a tiny random model and tells what is still wrong
with the run; it does not care how your code looks.

By hand, two examples, prompt P and response R E (E is end-of-text and padding), prompt P Q and response R S E; T = 4:
    labels   R E E E     Q R S E
    mask     x x . .     . x x x
"""

from __future__ import annotations

import torch


def make_batch(examples, pad_id: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """input_ids, labels and mask, each [B, T]."""
    width = max(len(example) for example in examples)
    rows, masks = [], []
    for example in examples:
        fill = width - len(example)
        rows.append([*example.prompt_ids, *example.response_ids, *[pad_id] * fill])
        masks.append([False] * len(example.prompt_ids) + [True] * len(example.response_ids) + [False] * fill)
    ids, mask = torch.tensor(rows), torch.tensor(masks)
    labels = ids[:, 1:]
    mask = mask[:, :-1] & (labels != pad_id)
    return ids[:, :-1], labels, mask


def train(
    model: torch.nn.Module,
    examples,
    pad_id: int,
    *,
    epochs: int,
    batch_size: int,
    microbatch_size: int,
    learning_rate: float,
) -> list[float]:
    """Fine-tune; one loss a step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=learning_rate)
    losses = []
    for _ in range(epochs):
        for start in range(0, len(examples) - batch_size, batch_size):
            batch = examples[start : start + batch_size]
            step_loss = 0.0
            for first in range(0, len(batch), microbatch_size):
                input_ids, labels, mask = make_batch(batch[first : first + microbatch_size], pad_id)
                log_p = torch.log_softmax(model(input_ids).logits, dim=-1)  # [B, T, V]
                log_probs = log_p.gather(-1, labels.unsqueeze(-1)).squeeze(-1)  # [B, T]
                loss = -(log_probs * mask).sum() / mask.sum()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                step_loss += loss.item()
            losses.append(step_loss)
    return losses

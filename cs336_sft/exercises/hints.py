"""Three hints an exercise: where to look, what to do, nearly the code."""

from __future__ import annotations

HINTS: dict[str, tuple[str, str, str]] = {
    "ex01": (
        "Three texts are easily mixed up: the question, the prompt that the template makes of it, and the raw answer.\n"
        "And a percentile of totals needs the totals, problem by problem.",
        "Tokenize template.prompt(problem) and problem.answer apart, without special tokens, and count the ids.\n"
        "For 'total' add the two lengths of each problem first, then take the percentile of the sums.",
        'len(tokenizer(text, add_special_tokens=False)["input_ids"]) counts one text.\n'
        'length_percentiles: for each part, {f"{p:g}": float(np.percentile(lengths, p)) for p in (50, 90, 95, 99, 99.5)};\n'
        "LengthTable has the property total.",
    ),
    "ex02": (
        "Write one row down by hand: the whole sequence, below it input_ids (all but its last token), below it labels\n"
        "(all but its first). Mark the labels that are response tokens. Which lengths does that take?",
        "Tokenize prompt and output apart, without special tokens. Make the mask over the *whole* sequence from the\n"
        "two lengths, pad it like the ids, and cut ids and mask in the same way as the labels.",
        "row = prompt_ids + output_ids + [pad] * fill; mask = [0] * len(prompt_ids) + [1] * len(output_ids) + [0] * fill\n"
        "input_ids = rows[:, :-1]; labels = rows[:, 1:]; response_mask = mask[:, 1:]",
    ),
    "ex03": (
        "A sum, not a mean: the only divisor is normalize_constant. And what is dim=0 in Python's eyes?",
        "Put 0 where the mask is 0, sum over dim (over everything for None), divide. Test `dim is None`, not `if dim`.\n"
        "Don't write into the tensors you were given.",
        "torch.where(mask.bool(), tensor, 0.0) keeps a masked nan out, which tensor * mask does not;\n"
        ".sum(dim=dim) accepts None.",
    ),
    "ex04": (
        "Four steps in a fixed order: sum each row, average over rows, divide, backward. Which divisions are there?",
        "Each row: minus the masked sum, over normalize_constant. The microbatch: mean over its rows. Then divide by\n"
        "gradient_accumulation_steps once, and call backward once, on that.",
        "loss = masked_normalize(-log_probs, mask, normalize_constant, dim=-1).mean() / gradient_accumulation_steps\n"
        "loss.backward(); return loss.detach(), {...}",
    ),
    "ex05": (
        "Which dimension is the vocabulary? Which base has the natural logarithm? What is 0 * -inf?",
        "Everything follows from log p: log_softmax over the last dimension, p = exp(log p), minus the sum of their product.",
        "log_p = torch.log_softmax(logits, dim=-1): it takes the maximum off, so it neither over- nor underflows.\n"
        'A forbidden token has log_p = -inf: log_p.masked_fill(log_p == float("-inf"), 0.0) before the product.',
    ),
    "ex06": (
        "labels[b, t] is what position t must predict: both tensors are already shifted. What is left is a look-up.",
        "log_softmax over the vocabulary, then gather the label's entry. The entropy is over the whole vocabulary, and\n"
        "only there when it is asked for.",
        "torch.log_softmax(logits, dim=-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)\n"
        "log_softmax rather than log(softmax), and no no_grad around it.",
    ),
    "ex07": (
        "Three questions in this order: where does the response end? which line holds the answer? does it hold one number?",
        "Cut at a line that begins with Question:. Take the rest of the line behind the last ####. Find all numbers in\n"
        "it; exactly one is an answer. format_reward only asks whether anything stands there.",
        r"re.findall(r'[-+]?\d[\d,]*(?:\.\d+)?', line) finds them; take the commas out;"
        "\nfractions.Fraction(text) == fractions.Fraction(truth) compares by value, without rounding.",
    ),
    "ex08": (
        "Each metric is a mean over *all* generations. Which field of the record says what it needs?",
        "accuracy: reward. format_accuracy: format_reward. trunc_rate: generation.finish_reason == 'length'.\n"
        "avg_gen_len: len(generation.token_ids), end-of-text included.",
        "statistics.fmean(item.reward for item in graded), and so on; fractions from 0 to 1, not percent.",
    ),
    "ex09": (
        "Where pad and eos have the same id, an id alone can't say whether it is padding. What can?",
        "Append the eos id to the output's ids before anything else; then it is a response token like any other.\n"
        "Make the mask from the lengths, as in ex02; never compare ids with pad_token_id.",
        "output_ids = output_ids + [tokenizer.eos_token_id] if append_eos else output_ids; the rest is ex02.",
    ),
    "ex10": (
        "Two responses of 2 and 4 tokens, one microbatch each: what does one token weigh? It should be 1/6 for all six.",
        "Count the target tokens of all microbatches first. Every microbatch is divided by that one number, and by\n"
        "nothing else; the shares add up to the step's mean.",
        "total = sum(int(mask.sum()) for _, mask in microbatches); for each: loss = -(log_probs * mask).sum() / total;\n"
        "loss.backward(); add loss.item() up.",
    ),
    "ex11": (
        "Which tensors have N x V elements? There may be none, neither while you compute nor kept for the backward.",
        "Loop over hidden[i : i + chunk_size] and the same slice of labels; the last slice may be shorter. Logits of a\n"
        "chunk in float32, log_softmax, gather. The entropy needs no graph.",
        "Put the chunk's work into a function and call torch.utils.checkpoint.checkpoint(function, rows, weight, wanted,\n"
        "use_reentrant=False): its logits are thrown away and made again in the backward. torch.cat the chunks.",
    ),
    "ex12": (
        "Three rules, and their order matters: filter, then remove duplicates, then cap. What does each look at?",
        "One pass in the given order: reward, then (question, stripped text) seen before?, then how many of this\n"
        "question are taken. problem.id names the question.",
        "taken = Counter(); seen = set(); for item in graded: skip if item.reward == 0, if its key is in seen, or if\n"
        "taken[id] has reached the cap; otherwise count it and append it.",
    ),
    "ex13": (
        "Six faults: two in make_batch, four in train. Follow one example by hand through make_batch; then ask of train\n"
        "which examples it sees, what it divides by, and when it updates.",
        "Print mask and labels side by side: is the first response token marked? the end-of-text token? Print the norm of\n"
        "the gradients before each update, the number of updates a step, and the start of every batch.",
        "The mask is shifted as the labels are. The eos id is padding's id, so compare nothing with it. zero_grad, clip and\n"
        "step belong to the step, not the microbatch. The divisor is the whole step's target tokens. The last, smaller batch counts.",
    ),
}

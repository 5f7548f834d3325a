"""Problems: GSM8K files, generated word problems, downloads; and the order of training examples in batches.

Read `gsm8k` first (files of problems), then `batching`.
"""

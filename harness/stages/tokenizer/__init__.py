"""Stage `tokenizer`, a module a kind of tokenizer."""

"""Regularisers of a tokenizer's training; `contract` says what one is."""

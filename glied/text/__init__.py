"""Captions as text: tokens, vocabulary, n-grams and what is counted over them."""

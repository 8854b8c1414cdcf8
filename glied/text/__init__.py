"""Caption text: tokenizer, vocabulary, n-grams, and the scores computed from n-gram counts."""

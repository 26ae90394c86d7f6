"""What tools/run corpus is made of: a model family, trained and exported as its owners would."""

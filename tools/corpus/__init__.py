"""The parts of tools/run corpus: a model family, trained and exported as its owners would."""

"""``bnfold experiment``: train models that differ in their BN against each other, and say what the difference is worth."""

"""``bnfold experiment``: models that differ in their BN, trained against each other."""

"""The rules, one module a family. Importing this package enters them into the table."""

from bnfold.analysis.rules import deployment, parameters, placement, redundancy, repetition

__all__ = ["deployment", "parameters", "placement", "redundancy", "repetition"]

"""The judge by noise: differences are measured, and held against what rounding alone does to the original."""

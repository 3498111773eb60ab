"""Which differences are rounding: measured, and held against the original's own noise."""

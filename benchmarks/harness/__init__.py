"""What the benchmark scripts share: running tools as processes, counting operators, drawing tables."""

"""Results as people and programs read them: console tables, JSON, SARIF, annotations, Markdown. Knows no model format."""

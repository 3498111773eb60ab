"""Results as people and programs read them: tables, JSON, SARIF, annotations, Markdown. Knows no model format."""

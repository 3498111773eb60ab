"""``--report``: results as one HTML page that needs nothing but a browser. Knows no model format."""

"""Models as pictures: what is drawn of a graph, where, and in which format. Knows no model format."""

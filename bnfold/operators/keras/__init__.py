"""The facts about Keras's layers, loaded when the first Keras model is."""

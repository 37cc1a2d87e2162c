"""The coordinator of a federation: a Flower ServerApp and the process around it."""

"""The model and its arithmetic in NumPy: weights, moments, scores, thresholds, the manifest."""

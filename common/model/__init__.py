"""The model and its arithmetic in NumPy: architecture, weights, scaling, scores, thresholds and manifests."""

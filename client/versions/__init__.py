"""The versions on an edge: how they are stored, tried before they are used, and when the stream drifts."""

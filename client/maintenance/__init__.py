"""The work beside the event loop: learning, adaptation, new versions, evidence, checkpoints."""

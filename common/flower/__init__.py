"""Private names of Flower that both sides need: how a message carries its content."""

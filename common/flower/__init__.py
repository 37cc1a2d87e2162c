"""Private names of Flower that both server and clients need: how a message carries its content."""

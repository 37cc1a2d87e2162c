"""What the README claims, measured against peers in one run."""

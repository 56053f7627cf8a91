"""What the public sees of a checkpoint: its card, its place on the Hub, its demo page."""

"""What runs a step graph, and owns its memory."""

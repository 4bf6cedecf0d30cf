"""The physical limit: what this machine could do at best, and how far each layer and a whole step are from it."""

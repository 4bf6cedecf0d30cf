"""The training loop: what one step learns, what is kept of it, and how it is stopped."""

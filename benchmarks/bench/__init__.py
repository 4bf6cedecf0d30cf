"""The short set: what every claim stands on, in ten minutes."""

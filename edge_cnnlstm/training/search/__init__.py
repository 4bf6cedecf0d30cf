"""The search for settings: where to look, and the study that workers share."""

"""Checkpoint in, bundle out; runs on a workstation, from a checkout of this repository."""

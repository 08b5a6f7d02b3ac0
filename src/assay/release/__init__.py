"""Releases: how a version that the gate passed is put into an environment, verified there, and taken back."""

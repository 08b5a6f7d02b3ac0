"""The pipelines; each reads like a table of contents."""

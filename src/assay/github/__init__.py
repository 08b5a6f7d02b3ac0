"""What the workflows in `.github/` need beside the other commands: GitHub's files, its API, and what is told there."""

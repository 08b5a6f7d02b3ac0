"""What the pipelines run on: ZenML stacks as code, and the orchestrator flavours that keep what a config promises."""

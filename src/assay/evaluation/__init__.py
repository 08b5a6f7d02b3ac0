"""What a model does on images that it has not seen: predictions, metrics with intervals, evidence, report."""

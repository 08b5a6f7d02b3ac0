"""The service: a bundle behind HTTP. `serving.app` is all of it, `serving.service` is how BentoML runs it."""

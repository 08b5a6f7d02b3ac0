"""Assay: labelled images in; a judged, registered model bundle out."""

__version__ = "0.1.0"

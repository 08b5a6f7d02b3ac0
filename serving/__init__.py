"""The service: a bundle behind HTTP. `serving.app` is all of it, `serving.service` is how BentoML runs it."""

import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec("assay") is None:  # not installed: a bento has it where the checkout has it
    sys.path.append(str(Path(__file__).parents[1] / "src"))

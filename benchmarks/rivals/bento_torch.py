"""A BentoML service as its documentation has them: torch in eager mode, Pillow, the image in a form."""

# ruff: noqa: PLC0415
import os
from pathlib import Path
from typing import Annotated

import bentoml
from bentoml.validators import ContentType
from PIL.Image import Image


@bentoml.service(traffic={"timeout": 60})
class Classifier:
    def __init__(self) -> None:
        import timm
        import torch
        from safetensors.torch import load_file
        from torchvision import transforms

        self.model = timm.create_model(os.environ["RIVAL_BACKBONE"], num_classes=2)
        self.model.load_state_dict(load_file(Path(os.environ["RIVAL_BUNDLE"]) / "weights.safetensors"))
        self.model.eval()
        size = int(os.environ["RIVAL_SIZE"])
        normalize = transforms.Normalize((0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
        self.transform = transforms.Compose([transforms.Resize((size, size)), transforms.ToTensor(), normalize])
        self.torch = torch

    @bentoml.api
    def classify(self, image: Annotated[Image, ContentType("image/jpeg")]) -> dict[str, float]:
        with self.torch.inference_mode():
            logits = self.model(self.transform(image.convert("RGB")).unsqueeze(0))
        crack, intact = logits.softmax(dim=1)[0].tolist()
        return {"crack": crack, "intact": intact}

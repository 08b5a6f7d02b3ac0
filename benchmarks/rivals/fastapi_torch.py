"""A FastAPI service as tutorials have them: torch in eager mode, Pillow, the image in a form."""

import io
import os
from pathlib import Path

import timm
import torch
from fastapi import FastAPI, File, UploadFile
from PIL import Image
from safetensors.torch import load_file
from torchvision import transforms

app = FastAPI()
model = timm.create_model(os.environ["RIVAL_BACKBONE"], num_classes=2)
model.load_state_dict(load_file(Path(os.environ["RIVAL_BUNDLE"]) / "weights.safetensors"))
model.eval()
size = int(os.environ["RIVAL_SIZE"])
normalize = transforms.Normalize((0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
transform = transforms.Compose([transforms.Resize((size, size)), transforms.ToTensor(), normalize])


@app.post("/predict")
async def predict(image: UploadFile = File(...)) -> dict[str, float]:  # noqa: B008
    picture = Image.open(io.BytesIO(await image.read())).convert("RGB")
    with torch.inference_mode():
        logits = model(transform(picture).unsqueeze(0))
    crack, intact = logits.softmax(dim=1)[0].tolist()
    return {"crack": crack, "intact": intact}

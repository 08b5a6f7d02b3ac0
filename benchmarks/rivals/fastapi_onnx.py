"""A FastAPI service with ONNX Runtime as tutorials have them: Pillow, the image in a form, all options left alone."""

import io
import os
from pathlib import Path

import numpy as np
import onnxruntime
from fastapi import FastAPI, File, UploadFile
from PIL import Image

app = FastAPI()
session = onnxruntime.InferenceSession(Path(os.environ["RIVAL_BUNDLE"]) / "model.onnx")
size = int(os.environ["RIVAL_SIZE"])


@app.post("/predict")
async def predict(image: UploadFile = File(...)) -> dict[str, float]:  # noqa: B008
    picture = Image.open(io.BytesIO(await image.read())).convert("RGB").resize((size, size))
    (probabilities,) = session.run(None, {"images": np.asarray(picture)[np.newaxis]})
    crack, intact = probabilities[0].tolist()
    return {"crack": crack, "intact": intact}

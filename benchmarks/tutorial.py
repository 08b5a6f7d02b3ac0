"""The path that tutorials teach: copied splits, two-pass mean and std, ImageFolder, albumentations, fp32, SGD.

Nothing in it is slowed down on purpose; it is what a careful reader of tutorials ends up with.
"""

import json
import random
import shutil
import time
from pathlib import Path

import albumentations as alb
import numpy as np
import timm
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from harness import arguments


def copy_splits(source: Path, target: Path, shares: tuple[float, float, float], seed: int) -> None:
    """Shuffle each class and copy its files into train, val and test."""
    for folder in sorted(p for p in source.iterdir() if p.is_dir()):
        files = sorted(folder.iterdir())
        random.Random(seed).shuffle(files)
        cuts = [int(len(files) * shares[0]), int(len(files) * (shares[0] + shares[1]))]
        for name, part in zip(
            ("train", "val", "test"), (files[: cuts[0]], files[cuts[0] : cuts[1]], files[cuts[1] :]), strict=True
        ):
            place = target / name / folder.name
            place.mkdir(parents=True)
            for file in part:
                shutil.copy(file, place)


def mean_and_std(folder: Path, size: int) -> tuple[list[float], list[float]]:
    """One pass for the mean, a second for the standard deviation, ten images at a time."""
    resize = transforms.Compose([transforms.Resize((size, size)), transforms.ToTensor()])
    loader = DataLoader(ImageFolder(str(folder), transform=resize), batch_size=10, num_workers=0)
    count, total = 0, torch.zeros(3)
    for images, _ in loader:
        total += images.mean(dim=(2, 3)).sum(dim=0)
        count += len(images)
    mean = total / count
    squares, pixels = torch.zeros(3), 0
    for images, _ in loader:
        squares += ((images - mean.view(1, 3, 1, 1)) ** 2).sum(dim=(0, 2, 3))
        pixels += images.shape[0] * images.shape[2] * images.shape[3]
    return mean.tolist(), torch.sqrt(squares / pixels).tolist()


class Pictures(ImageFolder):
    """An image folder whose pictures go through albumentations."""

    def __init__(self, folder: Path, transform: alb.Compose) -> None:
        super().__init__(str(folder))
        self.pipeline = transform

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        path, target = self.samples[index]
        pixels = np.array(Image.open(path).convert("RGB"))
        chw = self.pipeline(image=pixels)["image"].transpose(2, 0, 1)
        return torch.from_numpy(np.ascontiguousarray(chw)), target


def epoch(
    model: torch.nn.Module, loader: DataLoader, loss_of: torch.nn.Module, optimizer: torch.optim.Optimizer | None
) -> float:
    """One pass; the accuracy is the mean of the batches' accuracies."""
    accuracies = []
    model.train(optimizer is not None)
    with torch.set_grad_enabled(optimizer is not None):
        for images, targets in loader:
            outputs = model(images)
            loss = loss_of(outputs, targets)
            if optimizer:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            loss.item()
            accuracies.append((outputs.argmax(1) == targets).float().mean().item())
    return sum(accuracies) / len(accuracies)


def main() -> None:
    """Prepare, train, test; print seconds and test accuracy as JSON."""
    options = arguments(
        __doc__, source="", work="", backbone="resnet10t", size=128, epochs=3, batch=64, learning_rate=0.05, seed=0
    )
    torch.manual_seed(options.seed)
    start = time.perf_counter()
    splits = Path(options.work) / "splits"
    copy_splits(Path(options.source), splits, (0.70, 0.15, 0.15), seed=42)
    mean, std = mean_and_std(splits / "train", options.size)
    prepared = time.perf_counter()
    steps = [alb.Resize(options.size, options.size), alb.Normalize(mean, std)]
    training = Pictures(splits / "train", alb.Compose([alb.HorizontalFlip(p=0.5), *steps]))
    rest = {name: Pictures(splits / name, alb.Compose(steps)) for name in ("val", "test")}
    loaders = {name: DataLoader(part, batch_size=options.batch, num_workers=0) for name, part in rest.items()}
    train_loader = DataLoader(training, batch_size=options.batch, shuffle=True, num_workers=0)
    model = timm.create_model(options.backbone, num_classes=len(training.classes))
    optimizer = torch.optim.SGD(model.parameters(), lr=options.learning_rate, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.epochs, eta_min=1e-6)
    loss_of = torch.nn.CrossEntropyLoss()
    best, best_state = -1.0, model.state_dict()
    for _ in range(options.epochs):
        epoch(model, train_loader, loss_of, optimizer)
        schedule.step()
        if (accuracy := epoch(model, loaders["val"], loss_of, None)) > best:
            best, best_state = accuracy, {key: value.clone() for key, value in model.state_dict().items()}
    trained = time.perf_counter()
    model.load_state_dict(best_state)
    tested = epoch(model, loaders["test"], loss_of, None)
    figures = {"prepare_s": prepared - start, "train_s": trained - prepared, "total_s": trained - start}
    print(json.dumps({**figures, "test_accuracy": tested}))


if __name__ == "__main__":
    main()

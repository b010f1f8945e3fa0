"""Tiny pictures of three colours, a recipe of tiny nets, and the command as a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

COMMAND = """
import sys, typer
from ensembles.commands import Fault, search, train
app = typer.Typer()
app.callback()(lambda: None)
app.command()(train.train)
app.command()(search.search)
try:
    app(standalone_mode=False)
except Fault as fault:
    sys.exit(f"ensembles: {fault}")
"""

COLOURS = ("blue", "green", "red")
ROWS = 20  # a class
SIDE = 8


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for channel, colour in enumerate(("red", "green", "blue")):
        (root / colour).mkdir()
        for number in range(ROWS):
            pixels = rng.integers(0, 120, (SIDE, SIDE, 3))
            pixels[..., channel] += rng.integers(0, 120)
            Image.fromarray(pixels.astype(np.uint8)).save(root / colour / f"{number:02}.png")
    return root


@pytest.fixture
def recipe(pictures):
    """A function that makes a recipe's content, of members by name and what they have of their own."""

    def content(**members):
        plain = {"architecture": "convnet", "width": 2, "epochs": 3, "batch_size": 8}
        return {
            "name": "tiny",
            "data": str(pictures),
            "image_size": SIDE,
            "calibration": {"rows": 12},
            "members": [{"name": name, **plain, **own} for name, own in members.items()],
        }

    return content


@pytest.fixture
def command(tmp_path):
    """Starts `ensembles train RECIPE --out RUNS …`, or `search`, as a process of its own."""

    def start(content, *options, name="train"):
        file = tmp_path / "recipe.yaml"
        file.write_text(yaml.safe_dump(content))
        arguments = [sys.executable, "-c", COMMAND, name, str(file), "--out", str(tmp_path / "runs"), *options]
        repository = Path(__file__).parents[3]
        return subprocess.Popen(
            arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ, cwd=repository
        )

    return start

"""Small pictures of embryos for the tests of detection, drawn here so that the expected boxes are known."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

Draw = Callable[..., NDArray[np.uint8]]


@pytest.fixture
def draw() -> Draw:
    """Draw a field of 300 x 400 px at 10 um/px: chorions, bodies, specks as lists of (x, y), and noise."""

    def make(
        *,
        chorions: tuple[tuple[int, int], ...] = (),
        empty_chorions: tuple[tuple[int, int], ...] = (),
        bodies: tuple[tuple[int, int], ...] = (),
        specks: tuple[tuple[int, int], ...] = (),
        wall: bool = False,
        noise: float = 2.0,
    ) -> NDArray[np.uint8]:
        scale = 4  # drawn larger and reduced, for smooth edges
        light = np.full((300 * scale, 400 * scale), 180.0, np.float32)
        for x, y in (*chorions, *empty_chorions):
            cv2.circle(light, (x * scale, y * scale), 60 * scale, 130.0, 2 * scale, cv2.LINE_AA)
        for x, y in chorions:
            cv2.circle(light, (x * scale, y * scale), 33 * scale, 130.0, -1, cv2.LINE_AA)
            cv2.circle(light, (x * scale, y * scale), 33 * scale, 80.0, 2 * scale, cv2.LINE_AA)
        for x, y in bodies:
            axes = (80 * scale, 20 * scale)
            cv2.ellipse(light, (x * scale, y * scale), axes, 0, 0, 360, 120.0, -1, cv2.LINE_AA)
            cv2.ellipse(light, (x * scale, y * scale), axes, 0, 0, 360, 80.0, 2 * scale, cv2.LINE_AA)
        for x, y in specks:
            cv2.circle(light, (x * scale, y * scale), 6 * scale, 90.0, -1, cv2.LINE_AA)
        if wall:
            light[:, : 60 * scale] = 30.0
        light = cv2.GaussianBlur(cv2.resize(light, (400, 300), interpolation=cv2.INTER_AREA), (0, 0), 0.8)
        noisy = light + np.random.default_rng(5).normal(0, noise, light.shape)
        return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)

    return make

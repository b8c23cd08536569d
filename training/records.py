"""What a training leaves behind: facts for its record, checkpoints, and arrays as .npz files."""

from __future__ import annotations

import io
import json
import platform
import sys
from pathlib import Path

import cv2
import numpy as np
import torch

from keypoints.files import write_atomically


def versions() -> dict[str, str]:
    """Return what a record needs to be reproduced: versions and processor."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def training_facts(weights: Path) -> dict:
    """Return what the record of weights says about the training that made them, the ones before it included."""
    record = json.loads(weights.with_suffix(".json").read_text(encoding="utf-8"))
    names = "sha256", "faces", "start", "recipe", "seconds", "threads"
    return {name: record[name] for name in names if name in record} | {"views": record["history"][-1]["views"]}


def peak_memory_mb() -> float | None:
    """Return the process's peak resident size in MB (10^6 bytes); None where the system does not tell (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak * (1 if sys.platform == "darwin" else 1024) / 1e6, 1)  # bytes on macOS, KiB elsewhere


def write_checkpoint(path: Path, content: dict) -> None:
    """Write tensors and plain values for :func:`read_checkpoint`; the file has its name once it is whole."""
    buffer = io.BytesIO()  # on a full disk torch.save to a file would raise no OSError
    torch.save(content, buffer)
    write_atomically(path, lambda part: part.write_bytes(buffer.getbuffer()))


def read_checkpoint(path: Path) -> dict:
    """Read what :func:`write_checkpoint` wrote; of any other file torch may raise any exception."""
    return torch.load(path, map_location="cpu", weights_only=True)


def write_arrays(path: str | Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays as a compressed .npz file that appears under its name once it is whole."""

    def save(part: Path) -> None:
        with part.open("wb") as file:  # np.savez would add .npz to the name of a part
            np.savez_compressed(file, allow_pickle=False, **arrays)

    write_atomically(path, save)

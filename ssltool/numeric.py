"""How wide numbers may be on a device."""

from __future__ import annotations

import torch


def widest(device: torch.device) -> torch.dtype:
    """float64, but on Apple's GPUs, which have none, float32."""
    return torch.float32 if device.type == "mps" else torch.float64

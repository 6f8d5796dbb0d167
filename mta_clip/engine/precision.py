"""Numeric precision of the training step: float32, float16 with a loss scaler, or bfloat16 without one."""

from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


class Precision:
    """Runs forward, backward and optimizer step in one precision, on any device.

    detectron2's AMPTrainer supports only float16 on CUDA.

    Args:
        device: on which the model trains.
        dtype: of autocast; float32 turns it off.

    Raises:
        ValueError: float16 without CUDA, or bfloat16 on a GPU that does not support it.
    """

    @configurable
    def __init__(self, *, device: str | torch.device, dtype: torch.dtype = torch.float32) -> None:
        self.device_type = torch.device(device).type
        self.dtype = dtype
        if dtype == torch.float16 and self.device_type != "cuda":
            raise ValueError(
                f"float16 training needs a CUDA device, MODEL.DEVICE is {device}: "
                "set SOLVER.AMP.DTYPE bfloat16, or SOLVER.AMP.ENABLED False"
            )
        if dtype == torch.bfloat16 and self.device_type == "cuda" and not torch.cuda.is_bf16_supported():
            raise ValueError("this GPU does not support bfloat16: set SOLVER.AMP.DTYPE float16")
        # Only float16 has so few exponent bits that gradients vanish without scaling.
        self.scaler = torch.amp.GradScaler(self.device_type, enabled=dtype == torch.float16)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """The arguments above, from a config.

        Raises:
            ValueError: SOLVER.AMP.DTYPE is unknown.
        """
        dtype = torch.float32
        if cfg.SOLVER.AMP.ENABLED:
            if cfg.SOLVER.AMP.DTYPE not in DTYPES:
                raise ValueError(f"SOLVER.AMP.DTYPE is {cfg.SOLVER.AMP.DTYPE!r}, expected one of {sorted(DTYPES)}")
            dtype = DTYPES[cfg.SOLVER.AMP.DTYPE]
        return {"device": cfg.MODEL.DEVICE, "dtype": dtype}

    def autocast(self) -> torch.autocast:
        """The context of the forward pass."""
        if self.dtype == torch.float32:
            return torch.autocast(self.device_type, enabled=False)
        return torch.autocast(self.device_type, dtype=self.dtype)

    def backward(self, loss: Tensor) -> None:
        """Adds the gradients of `loss`, times the loss scale, to those in the parameters."""
        self.scaler.scale(loss).backward()

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Divides the gradients by the loss scale: ready for clipping and logs."""
        self.scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Runs the optimizer's step; the loss scaler skips it if a gradient overflowed."""
        self.scaler.step(optimizer)
        self.scaler.update()

    def skip(self) -> None:
        """Takes the place of `step` after `unscale`, and changes no weight."""
        self.scaler.update()

    @property
    def gradients_may_overflow(self) -> bool:
        """Whether non-finite gradients are normal: the loss scaler then skips the step and lowers its scale."""
        return self.scaler.is_enabled()

    def state_dict(self) -> dict[str, Any]:
        """State of the loss scaler; {} if there is none."""
        return self.scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the loss scaler, if there is one now and there was one then."""
        if state and self.scaler.is_enabled():  # empty if the interrupted run had no scaler
            self.scaler.load_state_dict(state)

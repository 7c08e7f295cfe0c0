"""Worker for PyTorch. Options 'compile': torch.compile with frozen weights, static shapes; 'int8':
dynamic quantisation of all linears, weights per channel; 'bf16': weights and activations.

The model is a directory with weights.safetensors; its name is the option that follows 'model='.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from peers.models import load_encoder
from peers.protocol import Job, serve


class TorchEngine:
    """The module with PyTorch's own choice of attention, in inference mode."""

    def __init__(self, job: Job) -> None:
        torch.set_num_threads(job.threads)
        if "compile" in job.options:
            import torch._inductor.config as inductor

            inductor.freezing = True  # constant weights are packed, as the other engines do
        name = next(o.removeprefix("model=") for o in job.options if o.startswith("model="))
        self.module: Any = load_encoder(name, job.model, attention="sdpa")
        if "int8" in job.options:
            quantization = torch.ao.quantization
            how = {torch.nn.Linear: quantization.per_channel_dynamic_qconfig}
            self.module = quantization.quantize_dynamic(self.module, how)
        if "bf16" in job.options:
            self.module = self.module.to(torch.bfloat16)
        if "compile" in job.options:
            self.module = torch.compile(self.module, dynamic=False)

    def prepare(self, ids: np.ndarray, mask: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.from_numpy(ids), torch.from_numpy(mask)

    # Not inference_mode: freezing only takes place under no_grad.
    @torch.no_grad()
    def run(self, prepared: tuple[torch.Tensor, torch.Tensor]) -> np.ndarray:
        return self.module(*prepared).float().numpy()


def main() -> None:
    torch.set_num_interop_threads(1)
    serve(TorchEngine, lambda: {"torch": torch.__version__})


if __name__ == "__main__":
    main()

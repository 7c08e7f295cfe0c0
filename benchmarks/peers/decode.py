"""Workers that generate: option 'prompt' times a text up to the logits of its last token, 'token'
one more token after all others of the text, whose keys and values are there already.

Which engine: the option 'engine=' canao, ort or torch. The last two of these must be installed
where the worker runs, CANAO only where it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np

from peers.protocol import Engine, Job, serve


class _Decoder:
    """`known` is what the engine keeps of a text's tokens but the last, for 'token'."""

    def __init__(self, job: Job) -> None:
        self.one = "token" in job.options

    def prepare(self, ids: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, Any]:
        return (ids[:, -1:], self.known(ids[:, :-1])) if self.one else (ids, self.nothing())


class CanaoDecoder(_Decoder):
    def __init__(self, job: Job) -> None:
        from canao.inference.compiled_model import CompiledModel

        super().__init__(job)
        self.model = CompiledModel(job.model, job.threads, job.cores)

    def nothing(self) -> int:
        return 0

    def known(self, ids: np.ndarray) -> int:
        self.model.reset()
        self.model.extend(ids[0], wanted=0)
        return self.model.sequence_length

    def run(self, prepared: tuple[np.ndarray, int]) -> np.ndarray:
        ids, kept = prepared
        self.model.reset(kept)
        return self.model.extend(ids[0])["logits"]


class OrtDecoder(_Decoder):
    def __init__(self, job: Job) -> None:
        import onnxruntime

        super().__init__(job)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = job.threads, 1
        self.session = onnxruntime.InferenceSession(
            job.model, options, providers=["CPUExecutionProvider"]
        )
        self.slots = self.session.get_inputs()[1:]

    def nothing(self) -> dict[str, np.ndarray]:
        return {s.name: np.zeros((1, s.shape[1], 0, s.shape[3]), np.float32) for s in self.slots}

    def known(self, ids: np.ndarray) -> dict[str, np.ndarray]:
        new = self.session.run(None, {"input_ids": ids, **self.nothing()})[1:]
        return dict(zip((s.name for s in self.slots), new, strict=True))

    def run(self, prepared: tuple[np.ndarray, dict[str, np.ndarray]]) -> np.ndarray:
        return self.session.run(None, {"input_ids": prepared[0], **prepared[1]})[0]


class TorchDecoder(_Decoder):
    def __init__(self, job: Job) -> None:
        import torch

        from peers.decoders import decoder

        super().__init__(job)
        torch.set_num_threads(job.threads)
        self.torch, self.model = torch, decoder(job.model)

    def nothing(self) -> None:
        return None

    def known(self, ids: np.ndarray) -> Any:
        with self.torch.no_grad():
            return self.model(self.torch.from_numpy(ids), use_cache=True).past_key_values

    def run(self, prepared: tuple[np.ndarray, Any]) -> np.ndarray:
        ids, known = prepared
        with self.torch.no_grad():
            out = self.model(
                self.torch.from_numpy(ids), past_key_values=known, use_cache=True, logits_to_keep=1
            )
        if known is not None:
            known.crop(-1)
        return out.logits[0].numpy()


_ENGINES: dict[str, tuple[Callable[[Job], Engine], str]] = {
    "canao": (CanaoDecoder, "canao"),
    "ort": (OrtDecoder, "onnxruntime"),
    "torch": (TorchDecoder, "torch"),
}
_loaded: dict[str, str] = {}


def load(job: Job) -> Engine:
    name = next(o.removeprefix("engine=") for o in job.options if o.startswith("engine="))
    made, package = _ENGINES[name]
    _loaded[package] = version(package)
    return made(job)


if __name__ == "__main__":
    serve(load, lambda: _loaded)

"""CANAO as a backend of the `onnx` package: models of tensors of fixed shapes.

    import canao.onnx_backend as backend
    outputs = backend.run_model(model, inputs)

Every result comes from a compiled library. Quantised whole numbers go in, and whole
numbers come out, as float32 that holds them exactly. Inputs of other types, such as the axes of a
reduction, are taken for constants: the model is compiled for their values when it is first run
with them. What CANAO does not compile raises BackendIsNotSupposedToImplementIt.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx.backend.base import Backend, BackendRep
from onnx.backend.test.runner import BackendIsNotSupposedToImplementIt

from canao.artifact.temporary import WorkingDirectory
from canao.build import Toolchain, build_library, get_toolchain
from canao.compiler.pipeline import compile_graph
from canao.errors import DeviceError, InputError, UnsupportedError
from canao.graph.dtypes import F32
from canao.graph.from_onnx.importer import import_tensors
from canao.graph.from_onnx.inputs import WHOLE
from canao.graph.from_onnx.load import Model, checked
from canao.graph.ir import Graph, shape_at
from canao.schedule.weights import file_parts
from canao.target import get_target


class TensorLibrary:
    """A compiled graph of float tensors, loaded: arrays in, arrays out."""

    def __init__(self, graph: Graph, toolchain: Toolchain | None = None) -> None:
        self.graph = graph
        target = get_target()
        stages = compile_graph(graph, target)
        self._library = ctypes.CDLL(str(build_library([stages.source], toolchain)))
        self._library.canao_message.restype = ctypes.c_char_p
        self._library.canao_close.argtypes = [ctypes.c_void_p]
        self._handle = ctypes.c_void_p()
        with WorkingDirectory("canao-weights") as folder:
            weights = folder / "weights.bin"
            with open(weights, "wb") as stream:
                for part in file_parts(stages.program.graph, stages.schedule.weights):
                    stream.write(part)
            path = str(weights).encode()
            self._check(self._library.canao_open(path, 1, None, ctypes.byref(self._handle)))
        weakref.finalize(self, self._library.canao_close, self._handle)

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The outputs in order. InputError unless inputs have the shapes compiled for."""
        slots = self.graph.inputs
        if len(inputs) != len(slots):
            raise InputError(f"{len(inputs)} inputs given; the model takes {len(slots)}")
        arrays = [np.ascontiguousarray(a) for a in inputs]
        for slot, array, given in zip(slots, arrays, inputs, strict=True):
            if array.dtype != slot.type.dtype.numpy or np.shape(given) != slot.type.shape:
                raise InputError(
                    f"{slot.name} is {array.dtype} {list(np.shape(given))}; give float32 "
                    f"{list(slot.type.shape)}"
                )
        out = [np.empty(shape_at(self.graph.shape(v), 1), F32.numpy)
               for _, v in self.graph.outputs]  # fmt: skip
        sources = (ctypes.c_void_p * max(1, len(arrays)))(*(a.ctypes.data for a in arrays))
        targets = (ctypes.c_void_p * len(out))(*(a.ctypes.data for a in out))
        self._check(self._library.canao_run(self._handle, sources, 1, targets))
        return out

    def _check(self, status: int) -> None:
        if status:
            raise DeviceError(self._library.canao_message(status).decode())


class CanaoRep(BackendRep):
    """A prepared model. Compiled at once, or for each set of constants that come with a run."""

    def __init__(self, model: Model, toolchain: Toolchain | None = None) -> None:
        self.model, self.toolchain = model, toolchain
        slots = [i for i in model.graph.input if i.name not in model.tensors]
        others = [i.name for i in slots if not i.type.HasField("tensor_type")]
        if others:
            raise UnsupportedError(f"input '{others[0]}' is no tensor; export without it")
        self.names = [i.name for i in slots]
        self.kinds = [i.type.tensor_type.elem_type for i in slots]
        self.constant = [kind not in (F32.onnx, *WHOLE) for kind in self.kinds]
        self.results = [o.type.tensor_type.elem_type or F32.onnx for o in model.graph.output]
        self.libraries: dict[tuple[bytes, ...], TensorLibrary] = {}
        if not any(self.constant):
            self._library({})

    def run(self, inputs: Any, **_: Any) -> tuple[Any, ...]:
        """Outputs in order, for inputs in order or by name."""
        if isinstance(inputs, Mapping):
            inputs = [inputs[name] for name in self.names]
        arrays = [np.asarray(a) for a in inputs]
        if len(arrays) != len(self.names):
            names = ", ".join(self.names) or "none"
            raise InputError(
                f"{len(arrays)} inputs given; the model takes {len(self.names)} ({names}), and "
                "those that the file holds values for are constants"
            )
        given = {n: _plain(a) for n, a, c in zip(self.names, arrays, self.constant, strict=True)
                 if c}  # fmt: skip
        library = self._library(given)
        tensors = [_floats(n, a, kind) for n, a, kind, c
                   in zip(self.names, arrays, self.kinds, self.constant, strict=True) if not c]
        found = zip(library.run(tensors), self.results, strict=True)
        return tuple(a.astype(onnx.helper.tensor_dtype_to_np_dtype(kind)) for a, kind in found)

    def _library(self, given: Mapping[str, np.ndarray]) -> TensorLibrary:
        key = tuple(f"{a.dtype}{a.shape}".encode() + a.tobytes() for a in given.values())
        if key not in self.libraries:
            try:
                graph = import_tensors(self.model, given)
                self.libraries[key] = TensorLibrary(graph, self.toolchain)
            except UnsupportedError as error:
                raise BackendIsNotSupposedToImplementIt(str(error)) from None
        return self.libraries[key]


def _floats(name: str, array: np.ndarray, kind: int) -> np.ndarray:
    """An input as the library takes it. InputError where whole numbers are of another type."""
    if kind not in WHOLE:
        return array
    if array.dtype != WHOLE[kind]:
        raise InputError(f"{name} is {array.dtype}; give {WHOLE[kind]}")
    return array.astype(np.float32)


def _plain(array: np.ndarray) -> np.ndarray:
    """An input that becomes a constant, as the import holds constants."""
    if array.dtype == np.bool_:
        return array
    if array.dtype.kind in "iu":
        return array.astype(np.int64)
    raise BackendIsNotSupposedToImplementIt(f"inputs of {array.dtype} are not supported")


class CanaoBackend(Backend):
    """The interface that the `onnx` package defines."""

    toolchain: Toolchain | None = None

    @classmethod
    def is_compatible(cls, model: Any, device: str = "CPU", **_: Any) -> bool:
        return cls.supports_device(device)

    @classmethod
    def prepare(cls, model: Any, device: str = "CPU", **_: Any) -> CanaoRep:
        try:
            return cls._prepared(checked(model, None), device)
        except UnsupportedError as error:
            raise BackendIsNotSupposedToImplementIt(str(error)) from None

    @classmethod
    def _prepared(cls, model: Model, device: str) -> CanaoRep:
        if not cls.supports_device(device):
            raise BackendIsNotSupposedToImplementIt(f"device {device} is not the CPU")
        return CanaoRep(model, cls.toolchain or get_toolchain())

    @classmethod
    def run_node(cls, node: Any, inputs: Any, device: str = "CPU", outputs_info: Any = None,
                 **kwargs: Any) -> tuple[Any, ...]:  # fmt: skip
        """One operator, as a model of its own; `outputs_info` is not needed."""
        super().run_node(node, inputs, device, outputs_info, **kwargs)
        arrays = [np.asarray(a) for a in inputs]
        helper = onnx.helper
        slots = [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for n, a in zip([i for i in node.input if i], arrays, strict=True)
        ]
        results = [helper.make_tensor_value_info(o, F32.onnx, None) for o in node.output if o]
        version = int(kwargs.get("opset_version", onnx.defs.onnx_opset_version()))
        model = Model(helper.make_graph([node], "node", slots, results), version, {})
        return cls._prepared(model, device).run(arrays)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        return device.split(":")[0] == "CPU"


is_compatible = CanaoBackend.is_compatible
prepare = CanaoBackend.prepare
run_model = CanaoBackend.run_model
run_node = CanaoBackend.run_node
supports_device = CanaoBackend.supports_device

"""An .onnx file -> a checked model and its tensors. The file is not trusted.

Weights are read by this module alone: external data must be regular files inside the model's
directory, and every tensor must have exactly the bytes that its shape and type call for. Nothing
is unpickled and nothing is executed.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from canao.artifact.reading import shown
from canao.defaults import LIMITS, Limits
from canao.errors import InputError, UnsupportedError
from canao.graph.dtypes import BF16
from canao.graph.from_onnx.elements import ELEMENTS
from canao.graph.from_onnx.limits import require_inlined_size, require_small

# Entries of external data: all are used.
_EXTERNAL = {"location", "offset", "length", "checksum"}
OLDEST = 13  # Squeeze, ReduceSum and Softmax changed their meaning there


def require_onnx() -> Any:
    """The onnx package, or InputError saying how to install it."""
    try:
        import onnx
        import onnx.checker
        import onnx.defs
        import onnx.inliner
        import onnx.numpy_helper
        import onnx.shape_inference
    except ImportError:
        raise InputError(
            "reading ONNX files needs the onnx package; run: pip install 'canao[onnx]'"
        ) from None
    return onnx


@dataclass(frozen=True, slots=True)
class Model:
    """A checked model: its graph, the version of its operators and its tensors by name."""

    graph: Any
    opset: int
    tensors: Mapping[str, np.ndarray]
    folder: Path | None = field(default=None)
    remarks: tuple[tuple[str, str], ...] = ()  # parts that are no computation, and why

    def tensor(self, proto: Any) -> np.ndarray:
        """A tensor in an attribute of a node."""
        return read_tensor(proto, self.folder)


def load(path: str | Path, limits: Limits = LIMITS) -> Model:
    """The model in an .onnx file. InputError or UnsupportedError in one line."""
    path = Path(path)
    onnx = require_onnx()
    if not path.exists():
        raise InputError(f"{path}: no such file; give an .onnx file")
    if not path.is_file():
        raise InputError(f"{path}: not a file; give an .onnx file")
    try:
        require_small(path, limits)
        proto = onnx.load(str(path), load_external_data=False)
    except (MemoryError, InputError):
        raise
    except Exception as error:  # noqa: BLE001  protobuf raises an error of each implementation
        if isinstance(error, OSError):
            raise InputError(f"{path}: cannot be read ({error.strerror})") from None
        raise InputError(f"{path}: not an ONNX file, or truncated; export it again") from None
    if not proto.graph.node and not proto.graph.output:
        raise InputError(f"{path}: not an ONNX file, or it holds no graph; export it again")
    try:
        return checked(proto, path.parent, limits)
    except (InputError, UnsupportedError) as error:
        raise type(error)(f"{path}: {error}") from None


def checked(proto: Any, folder: Path | None, limits: Limits = LIMITS) -> Model:
    """A model in memory; external data is looked for in `folder`."""
    onnx = require_onnx()
    _readable(proto)
    opset = _opset(proto)
    if proto.functions:
        require_inlined_size(proto, limits)
        try:
            proto = onnx.inliner.inline_local_functions(proto)
        except Exception as error:  # noqa: BLE001  the C++ core raises RuntimeError and others
            raise InputError(f"its functions cannot be inlined ({_line(error)})") from None
    if proto.graph.sparse_initializer:
        raise UnsupportedError("sparse initialisers are not supported; store weights densely")
    _require_memory(proto.graph.initializer, limits)
    tensors = {}
    for t in proto.graph.initializer:
        if t.name in tensors:
            raise InputError(f"initialiser '{t.name}' is given twice; export it again")
        tensors[t.name] = read_tensor(t, folder)
    _check(onnx, proto)
    return Model(proto.graph, opset, tensors, folder, tuple(_remarks(proto)))


def _remarks(proto: Any) -> Iterator[tuple[str, str]]:
    """The parts of a file that are no computation, and what they are."""
    if proto.metadata_props:
        names = sorted({p.key for p in proto.metadata_props})
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        yield f"metadata {', '.join(names[:3])}{more}", "a record of where the model came from"
    if proto.training_info:
        yield "training_info", "counts in training only"
    if proto.graph.quantization_annotation:
        yield "quantization_annotation", "says how the model could be quantised"


def _require_memory(tensors: Sequence[Any], limits: Limits) -> None:
    """InputError if tensors beside the model, which may all name the same bytes of one file, take
    too much. Those in it are checked by their bytes."""
    size = 0
    for t in (t for t in tensors if t.data_location == 1):
        held = ELEMENTS[t.data_type].held if t.data_type in ELEMENTS else np.float32
        size += abs(math.prod(t.dims)) * np.dtype(held).itemsize
    if size > limits.memory:
        raise InputError(
            f"its weights take {size / 1e9:.1f} GB, more than {limits.memory / 1e9:.1f} GB; "
            "give a larger --max-memory if that is meant"
        )


def _readable(proto: Any) -> None:
    """InputError unless the names in a model are text: protobuf gives others as bytes, or fails."""
    graphs, found = (proto.graph, *proto.functions), []
    try:
        for n in (n for g in graphs for n in g.node):
            found += [n.name, n.op_type, n.domain, *n.input, *n.output]
            found += [a.name for a in n.attribute]
        for t in (*proto.graph.initializer, *proto.graph.input, *proto.graph.output):
            found.append(t.name)
        for t in proto.graph.initializer:
            found += [text for e in t.external_data for text in (e.key, e.value)]
        found += [o.domain for o in proto.opset_import]
    except UnicodeDecodeError:
        found.append(b"")
    if not all(isinstance(text, str) for text in found):
        raise InputError("a name in it is not text; it is damaged, export it again")


def _check(onnx: Any, proto: Any) -> None:
    """onnx.checker on the model without its weights, which have been checked already."""
    bare = type(proto)()
    bare.CopyFrom(proto)
    for t in bare.graph.initializer:
        dims, kind, name = list(t.dims), t.data_type, t.name
        t.Clear()
        t.name, t.data_type = name, kind
        # The checker wants data for every tensor that has elements.
        t.dims.extend([0] if math.prod(dims) else dims)
    try:
        onnx.checker.check_model(bare)
    except Exception as error:  # noqa: BLE001  the C++ core raises RuntimeError and others
        raise InputError(
            f"not a valid ONNX model ({_line(error)}); correct it or export it again"
        ) from None


def _opset(proto: Any) -> int:
    versions = {o.domain: o.version for o in proto.opset_import}
    opset = versions.get("", versions.get("ai.onnx", 0))
    if not opset:
        raise UnsupportedError("it imports no version of the ONNX operators; export it again")
    if opset < OLDEST and not _unchanged(proto, opset):
        raise UnsupportedError(
            f"opset {opset} is too old; export with opset {OLDEST} or later, or convert it with "
            "onnx.version_converter"
        )
    newest = require_onnx().defs.onnx_opset_version()
    if opset > newest:
        raise UnsupportedError(
            f"opset {opset} is newer than the installed onnx package knows; export with opset "
            f"{newest} or earlier, or upgrade onnx"
        )
    return int(opset)


def _unchanged(proto: Any, opset: int) -> bool:
    """Whether all operators of a model mean in an older opset what they mean in OLDEST."""
    defs, graphs = require_onnx().defs, (proto.graph, *proto.functions)
    names = {n.op_type for g in graphs for n in g.node if n.domain in ("", "ai.onnx")}
    try:
        versions = [{defs.get_schema(name, o).since_version for o in (opset, OLDEST)}
                    for name in names]  # fmt: skip
    except defs.SchemaError:
        return False
    return all(len(v) == 1 for v in versions)


def read_tensor(t: Any, folder: Path | None) -> np.ndarray:
    """A tensor as float32, int64, bool or narrow whole numbers. InputError where bytes, shape and
    type disagree."""
    label = f"tensor '{t.name}'"
    if t.HasField("segment"):
        raise UnsupportedError(f"{label}: is stored in segments; export it whole")
    if t.data_type not in ELEMENTS:
        raise UnsupportedError(f"{label}: element type {t.data_type} is not supported; "
                               "export weights as float32")  # fmt: skip
    if any(d < 0 for d in t.dims):
        raise InputError(f"{label}: its shape {list(t.dims)} has a negative dimension")
    element = ELEMENTS[t.data_type]
    shape = tuple(int(d) for d in t.dims)
    raw = _bytes(t, folder, label, element.raw.itemsize * math.prod(shape))
    if raw is None:
        array = _fields(t, shape, label)
    else:
        array = np.frombuffer(raw, element.raw).reshape(shape)
        if element.onnx == BF16.onnx:  # the upper half of a float32
            array = (array.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array.astype(element.held)).reshape(shape)


def _fields(t: Any, shape: tuple[int, ...], label: str) -> np.ndarray:
    """Elements stored one by one, in the field of their type."""
    onnx = require_onnx()
    try:
        array = np.asarray(onnx.numpy_helper.to_array(t))
        if array.dtype.kind not in "biuf":  # bfloat16 is a type of its own
            array = array.astype(np.float32)
        if array.shape != shape:
            raise ValueError(f"shape {list(array.shape)}")
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{label}: its elements do not fit its shape {list(shape)} ({_line(error)})"
        ) from None
    return array


def _bytes(t: Any, folder: Path | None, label: str, expected: int) -> bytes | None:
    """The raw bytes of a tensor; None if its elements are stored one by one."""
    if t.data_location == 1:
        return _external(t, folder, label, expected)
    if not t.HasField("raw_data"):
        return None
    if len(t.raw_data) != expected:
        raise InputError(f"{label}: it has {len(t.raw_data)} bytes, its shape {list(t.dims)} "
                         f"calls for {expected}; export it again")  # fmt: skip
    return bytes(t.raw_data)


def _external(t: Any, folder: Path | None, label: str, expected: int) -> bytes:
    entries = {e.key: e.value for e in t.external_data}
    unknown = sorted(entries.keys() - _EXTERNAL)
    if unknown:
        raise UnsupportedError(
            f"{label}: entry {shown(unknown[0])} of its external data is not known to CANAO; "
            "export it again"
        )
    location = entries.get("location", "")
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", expected))
    except ValueError:
        raise InputError(f"{label}: offset or length of its external data is no number") from None
    if offset < 0 or length != expected:
        raise InputError(f"{label}: external data of {length} bytes at {offset}, its shape "
                         f"{list(t.dims)} calls for {expected}")  # fmt: skip
    path = _inside(folder, location, label)
    if "checksum" in entries and _sha1(path) != entries["checksum"].lower():
        raise InputError(f"{label}: {path.name} is not the file that was exported; copy it again")
    try:
        with open(path, "rb") as stream:
            if os.fstat(stream.fileno()).st_size < offset + length:
                raise InputError(f"{label}: {path.name} ends before its data; copy it again")
            stream.seek(offset)
            return stream.read(length)
    except OSError as error:
        raise InputError(f"{label}: {path.name} cannot be read ({error.strerror})") from None


@lru_cache(maxsize=16)
def _sha1(path: Path) -> str:
    """As ONNX defines checksums of external data: of the whole file."""
    found = hashlib.sha1(usedforsecurity=False)
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def _inside(folder: Path | None, location: str, label: str) -> Path:
    """The file of external data; InputError unless it is one inside the model's directory."""
    if folder is None:
        raise InputError(f"{label}: its data is external, and the model has no directory")
    root = folder.resolve()
    path = root / location
    outside = not location or "\0" in location or Path(location).is_absolute()
    if outside or not path.resolve().is_relative_to(root):
        raise InputError(f"{label}: its data {location!r} is outside of the model's directory")
    if not path.is_file():
        raise InputError(f"{label}: no file {location!r} beside the model; copy it there")
    return path.resolve()


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__

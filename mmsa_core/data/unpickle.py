"""An unpickler that makes text, numbers, plain containers and numpy arrays, and calls nothing of Python's or numpy's.

The layout of arrays in a pickle is numpy's (``ndarray.__reduce__`` and ``dtype.__reduce__``, pickle protocols 0 to 5).
What a file says never reaches numpy's own ``__setstate__``, which trusts it: a state of ``float32`` changes that dtype
for the whole process.
"""

from __future__ import annotations

import math
import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

LEAST = 2**29
"""Bytes that every pickle may make, however small it is."""
FACTOR = 16
"""How many times its own size a pickle may make: small whole numbers of 2 bytes become 8, text 4 per character."""
KEYS = (str, bytes, int, float)
"""What a dict may be keyed by: hashing nested tuples would exhaust the stack of the process."""
_CALLS: dict[tuple[str, str], str] = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): "_empty" for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): "_scalar" for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): "_buffered" for core in ("core", "_core")},
    ("numpy", "dtype"): "_dtype",
    ("numpy", "ndarray"): "_no_call",
    ("_codecs", "encode"): "_encoded",
    **{(module, "bytes"): "_encoded" for module in ("builtins", "__builtin__")},
    **{(module, "bytearray"): "_encoded" for module in ("builtins", "__builtin__")},
    **{(module, "complex"): "_complex" for module in ("builtins", "__builtin__")},
}
"""The globals that a pickle may ask for, and what of :class:`Unpickler` stands in for each."""


class RefusedError(Exception):
    """A pickle asked for something that is not made."""


class Allowance:
    """How many bytes a file may still make of itself."""

    def __init__(self, size: int) -> None:
        self.left = max(LEAST, FACTOR * size)

    def take(self, amount: int) -> None:
        """Count ``amount`` bytes.

        Raises:
            RefusedError: that is more than the file may make.
        """
        self.left -= amount
        if self.left < 0:
            raise RefusedError(f"more memory than {FACTOR} times its size")


class Dtype:
    """A dtype in the making: its kind and width, and the byte order that its state says."""

    def __init__(self, spec: object) -> None:
        if not isinstance(spec, str) or not re.fullmatch(r"[<>|=]?([biufcSU]\d{1,7}|O8?)", spec):
            raise RefusedError(f"the dtype {spec!r:.60}")
        self.made: np.dtype[Any] = np.dtype(spec)

    def __setstate__(self, state: Any) -> None:
        order, fields = state[1], state[2:5]
        if order not in ("<", ">", "|", "=") or any(part is not None for part in fields):
            raise RefusedError("a dtype of parts")
        self.made = self.made.newbyteorder(order)


class Array:
    """An array in the making: ``made`` is there once its state is read."""

    made: NDArray[Any]

    def __init__(self) -> None:
        self.made = np.empty(0)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, raw = state
        self.made = _filled(shape, dtype, "F" if fortran else "C", raw)


class Unpickler(pickle._Unpickler):
    """Python's own unpickler in Python, without the operations that make objects of classes, call what is not in
    ``_CALLS``, or set attributes."""

    dispatch: ClassVar[dict[int, Callable[[Any], None]]]
    stack: list[Any]
    read: Callable[[int], bytes]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, path: Path, file: Any, allowance: Allowance) -> None:
        super().__init__(file, encoding="latin1")  # how numpy arrays written by Python 2 are read
        self._size = path.stat().st_size
        self._allowance = allowance

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _CALLS:
            raise RefusedError(f"{module}.{name}")
        return getattr(self, _CALLS[module, name])

    # ---- what stands in for the globals --------------------------------------------------------------------------

    def _empty(self, *_: object) -> Array:
        return Array()

    def _dtype(self, spec: object, *_: object) -> Dtype:
        return Dtype(spec)

    def _scalar(self, dtype: Dtype, raw: bytes | str) -> Any:
        return _filled((1,), dtype, "C", raw)[0]

    def _buffered(self, raw: bytes, dtype: Dtype, shape: tuple[int, ...], order: str) -> Array:
        array = Array()
        array.made = _filled(shape, dtype, "F" if order == "F" else "C", raw)
        return array

    def _encoded(self, text: str | bytes = b"", encoding: str = "latin1") -> bytes:
        if encoding not in ("latin1", "latin-1"):
            raise RefusedError(f"the encoding {encoding!r:.60}")
        self._allowance.take(len(text))
        return text.encode("latin1") if isinstance(text, str) else memoryview(text).tobytes()

    def _complex(self, real: float, imaginary: float) -> complex:
        return complex(real, imaginary)

    def _no_call(self, *_: object) -> None:
        raise RefusedError("numpy.ndarray")

    # ---- operations ----------------------------------------------------------------------------------------------

    def load_build(self) -> None:
        state, made = self.stack.pop(), self.stack[-1]
        if not isinstance(made, Array | Dtype):
            raise RefusedError(f"a state of {type(made).__name__}")
        made.__setstate__(state)

    def load_bytearray8(self) -> None:
        (size,) = struct.unpack("<Q", self.read(8))
        if size > self._size:
            raise EOFError("a buffer is longer than the file")
        self.append(self.read(size))

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append(_dict({}, items))

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        _dict(self.stack[-1], [key, value])

    def load_setitems(self) -> None:
        items = self.pop_mark()
        _dict(self.stack[-1], items)

    def load_append(self) -> None:
        value = self.stack.pop()
        _list(self.stack[-1]).append(value)

    def load_appends(self) -> None:
        items = self.pop_mark()
        _list(self.stack[-1]).extend(items)


def _refuse(name: str) -> Callable[[Any], None]:
    def refuse(unpickler: Any) -> None:
        raise RefusedError(f"the operation {name}")

    return refuse


_REFUSED = (
    "PERSID BINPERSID INST OBJ NEWOBJ NEWOBJ_EX EXT1 EXT2 EXT4 EMPTY_SET ADDITEMS FROZENSET NEXT_BUFFER READONLY_BUFFER"
)
_OWN = {
    "BUILD": Unpickler.load_build,
    "BYTEARRAY8": Unpickler.load_bytearray8,
    "DICT": Unpickler.load_dict,
    "SETITEM": Unpickler.load_setitem,
    "SETITEMS": Unpickler.load_setitems,
    "APPEND": Unpickler.load_append,
    "APPENDS": Unpickler.load_appends,
}
Unpickler.dispatch = {
    **pickle._Unpickler.dispatch,
    **{getattr(pickle, name)[0]: _refuse(name) for name in _REFUSED.split()},
    **{getattr(pickle, name)[0]: load for name, load in _OWN.items()},
}


def _dict(target: Any, items: list[Any]) -> dict[Any, Any]:
    if not isinstance(target, dict) or not all(isinstance(key, KEYS) for key in items[::2]):
        raise RefusedError("a key that is neither text nor number")
    target.update(zip(items[::2], items[1::2], strict=True))
    return target


def _list(target: Any) -> list[Any]:
    if not isinstance(target, list):
        raise RefusedError(f"an item of {type(target).__name__}")
    return target


def _filled(shape: Any, dtype: Any, order: Any, raw: Any) -> NDArray[Any]:
    """Return an array over ``raw``, which must be exactly its values: a list of objects, or bytes (Python 2: text)."""
    if not isinstance(dtype, Dtype) or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise RefusedError("an array without dtype or shape")
    count = math.prod(shape)
    if dtype.made.hasobject:
        if not isinstance(raw, list) or len(raw) != count:
            raise EOFError("an array's list does not fit its shape")
        made = np.empty(count, object)
        for k, value in enumerate(raw):
            made[k] = value
        return made.reshape(shape, order=order)
    raw = raw.encode("latin1") if isinstance(raw, str) else raw
    if len(raw) != count * dtype.made.itemsize:
        raise EOFError(f"{len(raw)} bytes for an array of shape {list(shape)} and dtype {dtype.made}")
    return np.ndarray(shape, dtype.made, raw, order=order)

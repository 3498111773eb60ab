"""The data that was taken out of a skeleton, or that folding made, by the marks left in its place."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from bnfold.formats.atomic import Sink
from bnfold.formats.onnx.storage import Storage
from bnfold.formats.onnx.wire import RAW_DATA, Payload
from bnfold.graph import Param

if TYPE_CHECKING:
    from onnx import TensorProto


class Stored(Payload):
    """A range of a storage: the bytes of an unchanged tensor."""

    __slots__ = ("field", "length", "offset", "storage")

    def __init__(self, storage: Storage, field: int, offset: int, length: int) -> None:
        self.storage = storage
        self.field = field
        self.offset = offset
        self.length = length

    def __len__(self) -> int:
        return self.length

    def view(self) -> memoryview:
        return self.storage.view(self.offset, self.length)

    def read(self, start: int, stop: int) -> memoryview | bytes:
        """The bytes ``[start, stop)`` of the payload."""
        return self.storage.read(self.offset + start, stop - start)

    def write(self, out: Sink) -> None:
        self.storage.copy(self.offset, self.length, out)


class Computed(Payload):
    """The values of a constant that folding made, computed block by block while they are written."""

    __slots__ = ("length", "param")
    field = RAW_DATA

    def __init__(self, param: Param, length: int) -> None:
        self.param = param
        self.length = length

    def __len__(self) -> int:
        return self.length

    def write(self, out: Sink) -> None:
        for block in self.param.blocks():
            # As bytes first: memoryview knows neither float16's relatives nor empty arrays.
            out.write(block.reshape(-1).view(np.uint8).data)


class Payloads:
    """Payloads by mark, for one model. The nonce makes its marks unmistakable."""

    def __init__(self, nonce: str, payloads: Iterable[Payload]) -> None:
        self.nonce = nonce
        self._payloads = list(payloads)

    def __getitem__(self, mark: int) -> Payload:
        return self._payloads[mark]

    def copy(self) -> Payloads:
        return Payloads(self.nonce, self._payloads)

    def of(self, tensor: TensorProto) -> Stored | None:
        """The payload of a tensor as it was read, or None where the tensor holds its own data."""
        for entry in tensor.external_data[:] if self._payloads else ():
            if entry.key == self.nonce:
                payload = self._payloads[int(entry.value)]
                return payload if isinstance(payload, Stored) else None
        return None

    def put(self, tensor: TensorProto, payload: Payload) -> None:
        """Mark a tensor that has no data of its own."""
        tensor.external_data.add(key=self.nonce, value=str(len(self._payloads)))
        self._payloads.append(payload)

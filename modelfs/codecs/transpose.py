import struct
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Geometry:
    width: int
    batch: int
    rows: int
    columns: int


def encode(g, start):
    return struct.pack("<BIIIQ", g.width, g.batch, g.rows, g.columns, start)


def whole(source, g):
    if len(source) != g.width * g.batch * g.rows * g.columns:
        raise ValueError
    a = np.frombuffer(source, f"V{g.width}").reshape(g.batch, g.rows, g.columns)
    return np.ascontiguousarray(a.transpose(0, 2, 1)).tobytes()


class Transpose:
    def decode(self, payload, size, source):
        w, b, r, c, s = struct.unpack("<BIIIQ", payload)
        return whole(source, Geometry(w, b, r, c))[s : s + size]


class Gather:
    def decode(self, payload, size, source):
        return source

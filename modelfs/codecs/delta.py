import numpy as np

from modelfs.codecs.planes import pack, unpack


def _ord(x, w):
    one = np.uint64(1)
    top = x.dtype.type(1 << (8 * w - 1))
    return np.where(x & top, ~x, x | top)


def _un(y, w):
    top = y.dtype.type(1 << (8 * w - 1))
    return np.where(y & top, y & ~top, ~y)


def encode(raw, base, element):
    w = element.width
    n = len(raw) // w
    b = (base + bytes(len(raw)))[: len(raw)]
    dt = f"<u{w}"
    x = _ord(np.frombuffer(raw, dt, n), w)
    y = _ord(np.frombuffer(b, dt, n), w)
    d = x - y
    sd = d.view(f"<i{w}")
    z = ((sd << 1) ^ (sd >> (8 * w - 1))).view(dt)
    planes = [
        np.ascontiguousarray(z.view(np.uint8).reshape(n, w)[:, k]).tobytes() for k in range(w)
    ]
    return bytes([w]) + raw[n * w :] + pack(planes)


class Delta:
    def decode(self, payload, size, source):
        w = payload[0]
        n = size // w
        t = size - n * w
        planes = unpack(payload[1 + t :], w, n)
        z = np.empty((n, w), np.uint8)
        for k in range(w):
            z[:, k] = np.frombuffer(planes[k], np.uint8)
        dt = f"<u{w}"
        z = z.reshape(-1).view(dt)
        d = (z >> 1) ^ (-(z & 1).astype(f"<i{w}")).view(dt)
        b = (source + bytes(size))[: n * w]
        y = _ord(np.frombuffer(b, dt, n), w)
        return _un((y + d).astype(dt), w).tobytes() + payload[1 : 1 + t]

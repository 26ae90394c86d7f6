import numpy as np

from modelfs.codecs.elements import Element


def encode(source: Element, target: Element) -> bytes:
    return bytes([source.code, target.code])


class Cast:
    def decode(self, payload, size, source):
        s, t = Element.from_code(payload[0]), Element.from_code(payload[1])
        if s == Element(4, 8) and t == Element(2, 8):
            u = np.frombuffer(source, "<u4").astype(np.uint64)
            r = ((u + 0x7FFF + ((u >> 16) & 1)) >> 16).astype("<u2").tobytes()
        elif s == Element(4, 8) and t == Element(2, 5):
            r = np.frombuffer(source, "<f4").astype("<f2").tobytes()
        elif s == Element(2, 8) and t == Element(4, 8):
            r = (np.frombuffer(source, "<u2").astype("<u4") << 16).tobytes()
        else:
            raise ValueError("cast")
        if len(r) != size:
            raise ValueError("size")
        return r

# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Compiled loops of the codecs that need no other tensor; `planes_numpy` has the same.

Every size is checked before a loop begins. Loops run without the GIL and write into the bytes
object that is returned. Written so that the compiler makes vectors of them: on the baseline of
x86-64 `merge` takes 1/24 s (2-byte words) to 1/6 s (8-byte words) for a GB. Numbers are in the
machine's order, hence little-endian only.
"""

import sys

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from modelfs.codecs.kernels._words cimport in_t, out_t

if sys.byteorder != "little":
    raise ImportError("compiled for little-endian machines")

ctypedef fused word_t:
    uint16_t
    uint32_t
    uint64_t

ctypedef fused element_t:
    uint8_t
    uint16_t
    uint32_t
    uint64_t


cdef void split_words(
    const word_t* raw, const out_t* planes, size_t count, int turn
) noexcept nogil:
    cdef int back = (8 * sizeof(word_t) - turn) & (8 * sizeof(word_t) - 1)
    cdef out_t p0 = planes[0], p1 = planes[1], p2 = planes[2], p3 = planes[3]
    cdef out_t p4 = planes[4], p5 = planes[5], p6 = planes[6], p7 = planes[7]
    cdef word_t word
    cdef size_t i
    for i in range(count):
        word = <word_t>((raw[i] << turn) | (raw[i] >> back))
        p0[i] = <uint8_t>word
        p1[i] = <uint8_t>(word >> 8)
        if word_t is not uint16_t:
            p2[i] = <uint8_t>(word >> 16)
            p3[i] = <uint8_t>(word >> 24)
        if word_t is uint64_t:
            p4[i] = <uint8_t>(word >> 32)
            p5[i] = <uint8_t>(word >> 40)
            p6[i] = <uint8_t>(word >> 48)
            p7[i] = <uint8_t>(word >> 56)


cdef void merge_words(
    word_t* raw, const in_t* planes, size_t count, int turn
) noexcept nogil:
    cdef int back = (8 * sizeof(word_t) - turn) & (8 * sizeof(word_t) - 1)
    cdef in_t p0 = planes[0], p1 = planes[1], p2 = planes[2], p3 = planes[3]
    cdef in_t p4 = planes[4], p5 = planes[5], p6 = planes[6], p7 = planes[7]
    cdef word_t word
    cdef size_t i
    for i in range(count):
        word = <word_t>(p0[i] | (<word_t>p1[i] << 8))
        if word_t is not uint16_t:
            word |= (<word_t>p2[i] << 16) | (<word_t>p3[i] << 24)
        if word_t is uint64_t:
            word |= (<word_t>p4[i] << 32) | (<word_t>p5[i] << 40)
            word |= (<word_t>p6[i] << 48) | (<word_t>p7[i] << 56)
        raw[i] = <word_t>((word >> turn) | (word << back))


def split(const uint8_t[::1] raw not None, int width, bint rotated):
    if width not in (2, 4, 8) or raw.shape[0] % width:
        raise ValueError(f"{raw.shape[0]} bytes are no words of {width}")
    cdef size_t count = raw.shape[0] // width
    cdef out_t planes[8]
    cdef int k
    parts = []
    for k in range(8):
        planes[k] = NULL
    for k in range(width):
        part = PyBytes_FromStringAndSize(NULL, count)
        planes[k] = <out_t>PyBytes_AS_STRING(part)
        parts.append(part)
    if count == 0:
        return parts
    cdef in_t source = &raw[0]
    with nogil:
        if width == 2:
            split_words[uint16_t](<const uint16_t*>source, planes, count, rotated)
        elif width == 4:
            split_words[uint32_t](<const uint32_t*>source, planes, count, rotated)
        else:
            split_words[uint64_t](<const uint64_t*>source, planes, count, rotated)
    return parts


def merge(list planes not None, bint rotated, const uint8_t[::1] tail not None):
    cdef int width = <int>len(planes)
    if width not in (2, 4, 8):
        raise ValueError(f"{width} planes")
    cdef size_t count = len(planes[0]), rest = tail.shape[0]
    cdef Py_buffer views[8]
    cdef in_t starts[8]
    cdef int k, held = 0
    for k in range(8):
        starts[k] = NULL
    try:
        for k in range(width):
            PyObject_GetBuffer(planes[k], &views[k], PyBUF_SIMPLE)
            held += 1
            if <size_t>views[k].len != count:
                raise ValueError("planes of different lengths")
            starts[k] = <in_t>views[k].buf
        result = PyBytes_FromStringAndSize(NULL, count * width + rest)
        merge_into(<out_t>PyBytes_AS_STRING(result), starts, width, count, rotated)
        if rest:
            memcpy(PyBytes_AS_STRING(result) + count * width, &tail[0], rest)
        return result
    finally:
        for k in range(held):
            PyBuffer_Release(&views[k])


cdef void merge_into(
    out_t raw, const in_t* planes, int width, size_t count, int turn
) noexcept:
    with nogil:
        if width == 2:
            merge_words[uint16_t](<uint16_t*>raw, planes, count, turn)
        elif width == 4:
            merge_words[uint32_t](<uint32_t*>raw, planes, count, turn)
        else:
            merge_words[uint64_t](<uint64_t*>raw, planes, count, turn)


cdef int expand_words(
    element_t* out, in_t packed, int log_bits, const element_t* palette, size_t count
) noexcept nogil:
    """Return the highest index that was met."""
    cdef int log_each = 3 - log_bits
    cdef size_t within = (1 << log_each) - 1
    cdef int mask = (1 << (1 << log_bits)) - 1
    cdef int index, highest = 0
    cdef size_t i
    for i in range(count):
        index = (packed[i >> log_each] >> ((i & within) << log_bits)) & mask
        highest = index if index > highest else highest
        out[i] = palette[index]
    return highest


def expand(
    const uint8_t[::1] packed not None,
    int bits,
    const uint8_t[::1] palette not None,
    int width,
    size_t count,
):
    if bits not in (1, 2, 4, 8) or width not in (1, 2, 4, 8):
        raise ValueError(f"indices of {bits} bits to words of {width}")
    cdef size_t entries = palette.shape[0] // width
    cdef size_t each = 8 // bits, most = packed.shape[0] * each  # count * bits could overflow
    if not 0 < entries <= 256 or count > most or most - count >= each:
        raise ValueError(f"{packed.shape[0]} bytes of indices, {palette.shape[0]} of a palette")
    cdef uint64_t table[256]  # of which each index has an entry, in range or not
    memset(table, 0, sizeof(table))
    memcpy(table, &palette[0], entries * width)
    cdef int log_bits = {1: 0, 2: 1, 4: 2, 8: 3}[bits]
    cdef int highest = 0
    result = PyBytes_FromStringAndSize(NULL, count * width)
    if count == 0:
        return result
    cdef in_t source = &packed[0]
    cdef out_t out = <out_t>PyBytes_AS_STRING(result)
    with nogil:
        if width == 1:
            highest = expand_words[uint8_t](<uint8_t*>out, source, log_bits, <uint8_t*>table, count)
        elif width == 2:
            highest = expand_words[uint16_t](
                <uint16_t*>out, source, log_bits, <uint16_t*>table, count
            )
        elif width == 4:
            highest = expand_words[uint32_t](
                <uint32_t*>out, source, log_bits, <uint32_t*>table, count
            )
        else:
            highest = expand_words[uint64_t](
                <uint64_t*>out, source, log_bits, <uint64_t*>table, count
            )
    if <size_t>highest >= entries:
        raise ValueError(f"index {highest} into a palette of {entries}")
    return result

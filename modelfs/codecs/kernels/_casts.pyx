# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Compiled loops of casts and transposes; `casts_numpy` has the same.

Loops run without the GIL and write into the bytes object that is returned. All sizes are checked
before a loop begins. Words are loaded and stored as in `_words`, since a source may begin anywhere.
"""

import sys

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from modelfs.codecs.kernels._words cimport cell_t, in_t, load, out_t, pair_t, store

if sys.byteorder != "little":
    raise ImportError("compiled for little-endian machines")

cdef enum:
    TILE = 16


# -- casts
#
# By integers and by sums of normal numbers: the results of a processor for NaN, and for subnormal
# numbers when some library has set it to flush them, are no part of a stored form.


cdef inline uint32_t float_bits(float number) noexcept nogil:
    cdef uint32_t word
    memcpy(&word, &number, 4)
    return word


cdef inline float float_of(uint32_t word) noexcept nogil:
    cdef float number
    memcpy(&number, &word, 4)
    return number


cdef inline uint64_t double_bits(double number) noexcept nogil:
    cdef uint64_t word
    memcpy(&word, &number, 8)
    return word


cdef inline double double_of(uint64_t word) noexcept nogil:
    cdef double number
    memcpy(&number, &word, 8)
    return number


cdef inline uint16_t bfloat_of(uint32_t word) noexcept nogil:
    cdef uint32_t rounded = (word + 0x7FFF + ((word >> 16) & 1)) >> 16
    cdef uint32_t nan = 0x7FC0
    return <uint16_t>(nan if word << 1 > <uint32_t>255 << 24 else rounded)


cdef inline uint16_t half_of(uint32_t word) noexcept nogil:
    cdef uint32_t size = (word << 1) >> 1
    cdef uint32_t half = (size - (<uint32_t>112 << 23) + 0xFFF + ((size >> 13) & 1)) >> 13
    # A sum with 0.5 rounds at 2^-24, the step of subnormal halves.
    cdef uint32_t small = float_bits(float_of(size) + <float>0.5) - (<uint32_t>126 << 23)
    cdef uint32_t infinite = 0x7C00, nan = 0x7E00
    half = small if size < <uint32_t>113 << 23 else half
    half = infinite if size >= <uint32_t>143 << 23 else half
    half = nan if size > <uint32_t>255 << 23 else half
    return <uint16_t>(half | (word >> 31 << 15))


cdef inline uint32_t single_of(uint64_t word) noexcept nogil:
    cdef uint64_t size = (word << 1) >> 1
    cdef uint64_t single = (
        size - (<uint64_t>896 << 52) + 0xFFFFFFF + ((size >> 29) & 1)
    ) >> 29
    # A sum with 2^-97 rounds at 2^-149, the step of subnormal singles.
    cdef uint64_t small = double_bits(double_of(size) + 6.310887241768095e-30)
    cdef uint64_t infinite = <uint64_t>255 << 23
    cdef uint64_t nan = (<uint64_t>511 << 22) | ((size >> 29) & 0x3FFFFF)
    small -= <uint64_t>926 << 52
    single = small if size < <uint64_t>897 << 52 else single
    single = infinite if size >= <uint64_t>1151 << 52 else single
    single = nan if size > <uint64_t>2047 << 52 else single
    return <uint32_t>(single | (word >> 63 << 31))


cdef inline uint32_t widened(uint16_t word) noexcept nogil:
    cdef uint32_t size = <uint32_t>(word & 0x7FFF) << 13
    cdef uint32_t small = float_bits(<float><int>(word & 0x3FF) * <float>5.9604644775390625e-08)
    cdef uint32_t single = size + (<uint32_t>112 << 23), sign = word >> 15
    cdef uint32_t special = size + (<uint32_t>224 << 23)
    single = special if size >= <uint32_t>31 << 23 else single
    single = small if size < <uint32_t>1 << 23 else single
    return single | (sign << 31)


cdef void cast_words(out_t out, in_t source, size_t count, int number) noexcept nogil:
    cdef uint16_t half
    cdef uint32_t single
    cdef uint64_t double_
    cdef size_t i
    if number == 1:
        for i in range(count):
            load(&single, source, i)
            store(out, i, bfloat_of(single))
    elif number == 2:
        for i in range(count):
            load(&single, source, i)
            store(out, i, half_of(single))
    elif number == 3:
        for i in range(count):
            load(&double_, source, i)
            store(out, i, single_of(double_))
    elif number == 4:
        for i in range(count):
            load(&half, source, i)
            store(out, i, <uint32_t>(<uint32_t>half << 16))
    else:
        for i in range(count):
            load(&half, source, i)
            store(out, i, widened(half))


cdef int[6] FROM
cdef int[6] TO
FROM[:] = [0, 4, 4, 8, 2, 2]
TO[:] = [0, 2, 2, 4, 4, 4]


def cast(const uint8_t[::1] source not None, int number):
    if not 1 <= number <= 5 or source.shape[0] % FROM[number]:
        raise ValueError(f"{source.shape[0]} bytes for cast {number}")
    cdef size_t count = source.shape[0] // FROM[number]
    result = PyBytes_FromStringAndSize(NULL, count * TO[number])
    if not count:
        return result
    cdef out_t out = <out_t>PyBytes_AS_STRING(result)
    cdef in_t old = &source[0]
    with nogil:
        cast_words(out, old, count, number)
    return result


# -- transposes


cdef void turn_tile(
    out_t out, in_t source, size_t rows, size_t cols, size_t down, size_t across, cell_t cell
) noexcept nogil:
    """Turn the `down` rows and `across` columns that begin at `source`, row by row of `out`."""
    cdef size_t row, col
    for col in range(across):
        for row in range(down):
            load(&cell, source, row * cols + col)
            store(out, col * rows + row, cell)


cdef void turn_block(
    out_t out, in_t source, size_t rows, size_t cols, size_t down, size_t across, cell_t cell
) noexcept nogil:
    """The same in tiles, of which both sides fit in the first cache."""
    cdef size_t number, step, row, col, place
    for number in range((across + TILE - 1) // TILE):
        col = number * TILE
        for step in range((down + TILE - 1) // TILE):
            row = step * TILE
            place = sizeof(cell_t) * (col * rows + row)
            turn_tile(
                out + place,
                source + sizeof(cell_t) * (row * cols + col),
                rows,
                cols,
                min(down - row, <size_t>TILE),
                min(across - col, <size_t>TILE),
                cell,
            )


cdef void turn(
    out_t out, in_t source, size_t rows, size_t cols, size_t first, size_t stop, cell_t cell
) noexcept nogil:
    """Write the words `first` to `stop` of all that is turned."""
    cdef size_t at = first, plane, row, col, down, across
    while at < stop:
        plane = at // (rows * cols)
        col = at % (rows * cols) // rows
        row = at % rows
        down, across = min(rows - row, stop - at), 1
        if down == rows:
            across = min((stop - at) // rows, cols - col)
        turn_block(
            out + sizeof(cell_t) * (at - first),
            source + sizeof(cell_t) * ((plane * rows + row) * cols + col),
            rows,
            cols,
            down,
            across,
            cell,
        )
        at += down * across


def transpose(
    const uint8_t[::1] source not None,
    int width,
    size_t rows,
    size_t cols,
    size_t first,
    size_t stop,
):
    if width not in (1, 2, 4, 8, 16) or not rows or not cols:
        raise ValueError(f"{rows} x {cols} words of {width}")
    cdef size_t words = source.shape[0] // width
    if source.shape[0] % width or rows > words // cols or words % (rows * cols):
        raise ValueError(f"{rows} x {cols} words of {width} in {source.shape[0]} bytes")
    if not first <= stop <= words:
        raise ValueError(f"words {first} to {stop} of {words}")
    result = PyBytes_FromStringAndSize(NULL, (stop - first) * width)
    if first == stop:
        return result
    cdef out_t out = <out_t>PyBytes_AS_STRING(result)
    cdef in_t old = &source[0]
    cdef pair_t pair = pair_t(0, 0)
    with nogil:
        if width == 1:
            turn(out, old, rows, cols, first, stop, <uint8_t>0)
        elif width == 2:
            turn(out, old, rows, cols, first, stop, <uint16_t>0)
        elif width == 4:
            turn(out, old, rows, cols, first, stop, <uint32_t>0)
        elif width == 8:
            turn(out, old, rows, cols, first, stop, <uint64_t>0)
        else:
            turn(out, old, rows, cols, first, stop, pair)
    return result

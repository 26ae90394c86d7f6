# cython: language_level=3
"""Words in bytes that may begin anywhere, loaded and stored by memcpy, which compiles to a move.

Numbers are in the machine's order, hence little-endian only; each module that needs that checks it.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

ctypedef uint8_t* out_t
ctypedef const uint8_t* in_t

cdef struct pair_t:
    uint64_t low
    uint64_t high

ctypedef fused cell_t:
    uint8_t
    uint16_t
    uint32_t
    uint64_t
    pair_t


cdef inline void load(cell_t* word, in_t start, size_t place) noexcept nogil:
    memcpy(word, start + place * sizeof(cell_t), sizeof(cell_t))


cdef inline void store(out_t start, size_t place, cell_t word) noexcept nogil:
    memcpy(start + place * sizeof(cell_t), &word, sizeof(cell_t))

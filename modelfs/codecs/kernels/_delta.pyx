# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Compiled loops of deltas; `delta_numpy` has the same.

Loops run without the GIL and write into the bytes object that is returned. All sizes are checked
before a loop begins, or at the start of each block of 64 words where that is enough. Words are
loaded and stored as in `_words`, since a source may begin anywhere.
"""

import sys

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int16_t, int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from modelfs.codecs.kernels._words cimport in_t, load, out_t, store

if sys.byteorder != "little":
    raise ImportError("compiled for little-endian machines")

cdef extern from *:
    """
    /* Takes tokens out of several streams at once, on processors with AVX-512 VBMI2. Elsewhere they
       are taken one by one, which is half of the time of restoring BF16. */
    #if defined(__x86_64__) && (defined(__clang__) || (defined(__GNUC__) && __GNUC__ >= 8))
    #include <immintrin.h>

    static int can_expand(void) {
        return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vbmi2");
    }

    /* `tokens` and `places` have 64 bytes, bit i of `present` is set where they count, and each
       stream can be read 64 bytes further than where it is. */
    __attribute__((target("avx512bw,avx512vbmi2,popcnt")))
    static void expand_tokens(unsigned char *tokens, const unsigned char *places,
                              unsigned long long present, const unsigned char **next,
                              int classes) {
        __m512i place = _mm512_loadu_si512(places), all = _mm512_setzero_si512();
        for (int k = 0; k < classes; k++) {
            __mmask64 chosen = present & _mm512_cmpeq_epi8_mask(place, _mm512_set1_epi8(k));
            all = _mm512_mask_expand_epi8(all, chosen, _mm512_loadu_si512(next[k]));
            next[k] += _mm_popcnt_u64(chosen);
        }
        _mm512_storeu_si512(tokens, all);
    }
    #else
    static int can_expand(void) { return 0; }

    static void expand_tokens(unsigned char *tokens, const unsigned char *places,
                              unsigned long long present, const unsigned char **next,
                              int classes) {}
    #endif
    """
    bint can_expand()
    void expand_tokens(
        uint8_t* tokens, const uint8_t* places, uint64_t present, in_t* next, int classes
    ) nogil
    int count_leading_zeros "__builtin_clzll"(unsigned long long word) nogil
    int count_trailing_zeros "__builtin_ctzll"(unsigned long long word) nogil

ctypedef fused word_t:
    uint8_t
    uint16_t
    uint32_t
    uint64_t

ctypedef fused several_t:  # tokens that a byte stands for
    uint16_t
    uint32_t

cdef enum:
    BLOCK = 64
    CLASSES = 12
    BIAS = 64
    ESCAPE = 255
    USUAL = 0
    SATURATED = 11
    SCALE_MAX = 4095  # beyond, all words of any kind are of one class
    HALF = 32  # of a block
    COUNT = 5  # bits that count the words before the last one in half a block
    COUNT_MAX = 31
    SLACK = 8 * BLOCK + 8  # what one block may read past the end of a stream, at most

cdef uint64_t[BLOCK] NOTHING  # a block of any words
cdef uint64_t[64] LOW_BITS  # by how many
cdef bint expands = can_expand()


cdef void fill_constants() noexcept:
    cdef int bits
    memset(NOTHING, 0, sizeof(NOTHING))
    for bits in range(64):
        LOW_BITS[bits] = (<uint64_t>1 << bits) - 1


fill_constants()


# -- words


cdef struct kind_t:
    int place  # of the lowest bit of the exponent
    uint64_t exponents  # the largest
    uint64_t floats  # all ones, or 0 for integers
    int cap  # bits below a token, at most
    int clip  # bits of a difference that count for a scale, at most
    const int32_t* table
    int table_place
    uint64_t table_mask


cdef kind_t kind_of(int width, int exponent, const uint8_t[::1] table) except *:
    """Check the kind of words, which all functions get alike, and return it for the loops."""
    cdef kind_t kind
    cdef int mantissa = 8 * width - 1 - exponent, bits = 0
    if width not in (1, 2, 4, 8) or not 0 <= exponent <= 11 or mantissa < 1:
        raise ValueError(f"words of {width} bytes with {exponent} of exponent")
    if table.shape[0]:
        bits = 1
        while 4 << bits < table.shape[0]:
            bits += 1
        if 4 << bits != table.shape[0] or not exponent or bits > mantissa:
            raise ValueError(f"a table of {table.shape[0]} bytes")
    kind.place = mantissa if exponent else 0
    kind.exponents = (1 << exponent) - 1
    kind.floats = <uint64_t>0 - (exponent > 0)
    kind.cap = max(mantissa - 2, 0) if exponent else 8 * width - 8
    kind.clip = mantissa if exponent else 8 * width
    kind.table = <const int32_t*>&table[0] if table.shape[0] else <const int32_t*>NOTHING
    kind.table_place = mantissa - bits if table.shape[0] else 0
    kind.table_mask = (1 << bits) - 1
    return kind


cdef inline word_t ordered(word_t word, word_t floats) noexcept nogil:
    """Return an integer that grows with the number that `word` is."""
    cdef int last = 8 * sizeof(word_t) - 1
    cdef word_t sign = <word_t>(word >> last)
    return <word_t>(word ^ ((<word_t>(0 - sign) | (<word_t>1 << last)) & floats))


cdef inline word_t unordered(word_t word, word_t floats) noexcept nogil:
    cdef int last = 8 * sizeof(word_t) - 1
    cdef word_t sign = <word_t>(word >> last)
    return <word_t>(word ^ ((<word_t>(sign - 1) | (<word_t>1 << last)) & floats))


cdef inline word_t mirror(word_t word, word_t floats) noexcept nogil:
    """Return all ones for a negative float, else 0: the mask that turns a difference round."""
    return <word_t>(0 - (word >> (8 * sizeof(word_t) - 1))) & floats


cdef inline word_t predicted(word_t word, const kind_t* kind) noexcept nogil:
    return <word_t>kind.table[(word >> kind.table_place) & <word_t>kind.table_mask]


cdef inline int exponent_of(word_t word, const kind_t* kind) noexcept nogil:
    return <int>((word >> kind.place) & <word_t>kind.exponents)


# -- delta, the way there


cdef inline size_t blocks_of(size_t count) noexcept nogil:
    return (count + BLOCK - 1) // BLOCK


cdef void differ_words(
    out_t zigzag,
    uint16_t* peaks,
    in_t raw,
    in_t base,
    size_t count,
    const kind_t* kind,
    word_t floats,
) noexcept nogil:
    cdef word_t word, new, turn, step
    cdef int bits, peak, size
    cdef size_t block, i
    for block in range(blocks_of(count)):
        peak = 0
        for i in range(block * BLOCK, min(block * BLOCK + BLOCK, count)):
            load(&word, base, i)
            load(&new, raw, i)
            turn = mirror(word, floats)
            step = ordered(new, floats) - ordered(word, floats)
            step = <word_t>((step ^ turn) - turn) - predicted(word, kind)
            step = <word_t>((step << 1) ^ (0 - (step >> (8 * sizeof(word_t) - 1))))
            store(zigzag, i, step)
            bits = 64 - count_leading_zeros(<uint64_t>step | 1)
            size = (min(bits, kind.clip) + exponent_of(word, kind)) & -<int>(step != 0)
            peak = max(peak, size)
        peaks[block] = <uint16_t>peak


def differ(
    const uint8_t[::1] raw not None,
    const uint8_t[::1] base not None,
    int width,
    int exponent,
    const uint8_t[::1] table not None,
):
    cdef kind_t kind = kind_of(width, exponent, table)
    if raw.shape[0] != base.shape[0] or raw.shape[0] % width:
        raise ValueError(f"{raw.shape[0]} bytes against {base.shape[0]}")
    cdef size_t size = raw.shape[0], count = size // width
    zigzag = PyBytes_FromStringAndSize(NULL, size)
    peaks = PyBytes_FromStringAndSize(NULL, 2 * blocks_of(count))
    if not count:
        return zigzag, peaks
    cdef out_t out = <out_t>PyBytes_AS_STRING(zigzag)
    cdef uint16_t* tops = <uint16_t*>PyBytes_AS_STRING(peaks)
    cdef in_t new = &raw[0], old = &base[0]
    with nogil:
        if width == 1:
            differ_words(out, tops, new, old, count, &kind, <uint8_t>kind.floats)
        elif width == 2:
            differ_words(out, tops, new, old, count, &kind, <uint16_t>kind.floats)
        elif width == 4:
            differ_words(out, tops, new, old, count, &kind, <uint32_t>kind.floats)
        else:
            differ_words(out, tops, new, old, count, &kind, <uint64_t>kind.floats)
    return zigzag, peaks


cdef inline int16_t class_of(int16_t depth, int16_t cap) noexcept nogil:
    cdef int16_t finer = <int16_t>-depth
    finer = finer if finer > 0 else 0
    finer = finer if finer < SATURATED - 1 else SATURATED - 1
    return finer | (SATURATED & -<int16_t>(depth > cap))


cdef inline int16_t shift_of(int16_t depth, int16_t cap) noexcept nogil:
    depth = depth if depth > 0 else 0
    return depth if depth < cap else cap


cdef inline int16_t depth_of(word_t word, int scale, const kind_t* kind) noexcept nogil:
    return <int16_t>((scale if scale < SCALE_MAX else SCALE_MAX) - BIAS - exponent_of(word, kind))


cdef size_t count_classes(
    size_t* counts, in_t base, in_t scales, size_t count, const kind_t* kind, word_t word
) noexcept nogil:
    """Return how many bits lie below tokens."""
    cdef size_t block, i, below = 0
    cdef uint16_t scale
    cdef int16_t depth, cap = <int16_t>kind.cap
    for block in range(blocks_of(count)):
        load(&scale, scales, block)
        if scale == 0:
            continue
        for i in range(block * BLOCK, min(block * BLOCK + BLOCK, count)):
            load(&word, base, i)
            depth = depth_of(word, scale, kind)
            counts[class_of(depth, cap)] += 1
            below += shift_of(depth, cap)
    return below


cdef size_t scatter_words(
    out_t* tokens,
    out_t lows,
    out_t escapes,
    in_t zigzag,
    in_t base,
    in_t scales,
    size_t count,
    const kind_t* kind,
    word_t word,
) noexcept nogil:
    """Return how many words escaped. `lows` has 16 bytes more than it needs."""
    cdef size_t block, i, escaped = 0
    cdef uint64_t pending = 0, low
    cdef word_t step
    cdef uint16_t scale
    cdef int16_t depth, cap = <int16_t>kind.cap
    cdef int place, shift, held = 0
    for block in range(blocks_of(count)):
        load(&scale, scales, block)
        if scale == 0:
            continue
        for i in range(block * BLOCK, min(block * BLOCK + BLOCK, count)):
            load(&word, base, i)
            depth = depth_of(word, scale, kind)
            place = class_of(depth, cap)
            shift = shift_of(depth, cap)
            load(&step, zigzag, i)
            low = step & ((<uint64_t>1 << shift) - 1)
            pending |= low << held
            held += shift
            memcpy(lows, &pending, 8)
            lows += held >> 3
            pending >>= held & 56
            held &= 7
            step = <word_t>(step >> shift)
            if step >= ESCAPE:
                store(escapes, escaped, step)
                escaped += 1
                step = <word_t>ESCAPE
            tokens[place][0] = <uint8_t>step
            tokens[place] += 1
    return escaped


def scatter(
    const uint8_t[::1] zigzag not None,
    const uint8_t[::1] base not None,
    int width,
    int exponent,
    const uint8_t[::1] scales not None,
):
    cdef kind_t kind = kind_of(width, exponent, b"")
    cdef size_t size = base.shape[0], count = size // width, below = 0, escaped = 0
    if size % width or <size_t>zigzag.shape[0] != size:
        raise ValueError(f"{zigzag.shape[0]} bytes against {size}")
    if <size_t>scales.shape[0] != 2 * blocks_of(count):
        raise ValueError(f"{scales.shape[0]} bytes of scales for {count} words")
    cdef size_t[CLASSES] counts
    cdef out_t[CLASSES] starts
    cdef int k
    memset(counts, 0, sizeof(counts))
    if not count:
        return [b""] * CLASSES, b"", b""
    cdef in_t new = &zigzag[0], old = &base[0], heights = &scales[0]
    with nogil:
        if width == 1:
            below = count_classes(counts, old, heights, count, &kind, <uint8_t>0)
        elif width == 2:
            below = count_classes(counts, old, heights, count, &kind, <uint16_t>0)
        elif width == 4:
            below = count_classes(counts, old, heights, count, &kind, <uint32_t>0)
        else:
            below = count_classes(counts, old, heights, count, &kind, <uint64_t>0)
    tokens = [PyBytes_FromStringAndSize(NULL, counts[k]) for k in range(CLASSES)]
    for k in range(CLASSES):
        starts[k] = <out_t>PyBytes_AS_STRING(tokens[k])
    cdef size_t lows_size = (below + 7) // 8
    lows = bytearray(lows_size + 16)
    escapes = bytearray(size)
    cdef out_t low = <out_t>(<char*>lows), rest = <out_t>(<char*>escapes)
    with nogil:
        if width == 1:
            escaped = scatter_words(
                starts, low, rest, new, old, heights, count, &kind, <uint8_t>0
            )
        elif width == 2:
            escaped = scatter_words(
                starts, low, rest, new, old, heights, count, &kind, <uint16_t>0
            )
        elif width == 4:
            escaped = scatter_words(
                starts, low, rest, new, old, heights, count, &kind, <uint32_t>0
            )
        else:
            escaped = scatter_words(
                starts, low, rest, new, old, heights, count, &kind, <uint64_t>0
            )
    return tokens, bytes(lows[:lows_size]), bytes(escapes[: escaped * width])


# -- delta, the way back


cdef size_t put_large(
    out_t tokens, size_t count, int most, in_t large, size_t large_count, size_t taken
) noexcept nogil:
    cdef size_t i
    for i in range(count):
        if tokens[i] == most:
            tokens[i] = large[taken] if taken < large_count else 0
            taken += 1
    return taken


cdef size_t widen_tokens(
    out_t out, in_t packed, size_t count, in_t large, size_t large_count, several_t several
) noexcept nogil:
    """Return how many tokens were large."""
    cdef several_t[256] tokens
    cdef uint8_t[256] flags  # whether a large one is among them
    cdef size_t each = sizeof(several_t), taken = 0, i, k
    cdef int bits = 8 // <int>each, most = (1 << bits) - 1, byte
    for byte in range(256):
        flags[byte] = 0
        for k in range(each):
            (<out_t>&tokens[byte])[k] = <uint8_t>((byte >> (bits * k)) & most)
            flags[byte] |= (<out_t>&tokens[byte])[k] == most
    for i in range(count // each):
        several = tokens[packed[i]]
        store(out, i, several)
        if flags[packed[i]]:
            taken = put_large(out + i * each, each, most, large, large_count, taken)
    if count % each:
        i = count // each
        memcpy(out + i * each, &tokens[packed[i]], count % each)
        taken = put_large(out + i * each, count % each, most, large, large_count, taken)
    return taken


def widen(
    const uint8_t[::1] packed not None,
    int bits,
    const uint8_t[::1] large not None,
    size_t count,
):
    if bits not in (2, 4) or <size_t>packed.shape[0] != count // (8 // bits) + (
        count % (8 // bits) > 0
    ):
        raise ValueError(f"{packed.shape[0]} bytes for {count} tokens of {bits} bits")
    result = PyBytes_FromStringAndSize(NULL, count)
    cdef out_t out = <out_t>PyBytes_AS_STRING(result)
    cdef in_t source = &packed[0] if count else NULL
    cdef in_t others = &large[0] if large.shape[0] else NULL
    cdef size_t others_count = large.shape[0], taken
    with nogil:
        if bits == 2:
            taken = widen_tokens(out, source, count, others, others_count, <uint32_t>0)
        else:
            taken = widen_tokens(out, source, count, others, others_count, <uint16_t>0)
    if taken != others_count:
        raise ValueError(f"{others_count} large tokens where others are asked for")
    return result


cdef struct block_t:
    size_t count  # of words
    uint64_t present  # bit i: there is a word i
    uint8_t[BLOCK] places  # their classes
    uint8_t[BLOCK] shifts  # how many low bits each has
    bint usual
    uint64_t deep  # bit i: word i has any


cdef struct streams_t:
    in_t[CLASSES] next  # token of each class
    in_t[CLASSES] stops
    in_t lows
    size_t bit  # the next of them
    size_t lows_stop  # in bits
    in_t escapes
    size_t escaped  # so many of them
    size_t escapes_stop


cdef inline uint64_t gathered(const uint8_t* flags) noexcept nogil:
    """Return bytes that are 0 or 1 as the bits of a number."""
    cdef uint64_t bits = 0, eight
    cdef size_t i
    for i in range(8):
        load(&eight, flags, i)
        bits |= (eight * <uint64_t>0x0102040810204080) >> 56 << (8 * i)
    return bits


cdef inline void place_block(
    block_t* block, in_t base, int scale, const kind_t* kind, word_t word
) noexcept nogil:
    cdef int16_t top = <int16_t>((scale if scale < SCALE_MAX else SCALE_MAX) - BIAS)
    cdef int16_t cap = <int16_t>kind.cap, depth
    cdef int16_t exponents = <int16_t>kind.exponents
    cdef uint8_t[BLOCK] shifted
    cdef uint8_t places = 0
    cdef int place = kind.place
    cdef size_t i
    for i in range(BLOCK):
        load(&word, base, i)
        depth = <int16_t>(top - (<int16_t>(word >> place) & exponents))
        block.places[i] = <uint8_t>class_of(depth, cap)
        block.shifts[i] = <uint8_t>shift_of(depth, cap)
    for i in range(BLOCK):
        places |= block.places[i]
        shifted[i] = block.shifts[i] != 0
    block.usual = places == USUAL
    block.deep = gathered(shifted) & block.present


cdef void take_one_by_one(
    out_t tokens, const block_t* block, streams_t* streams
) noexcept nogil:
    """Take tokens of several classes.

    The tokens of each class so far in half a block are counted in bits of one register: a count
    in memory has to arrive there before the next token of its class can be looked up.
    """
    cdef in_t* next = streams.next
    cdef uint64_t counts
    cdef size_t begin = 0, i, stop, k, place
    while begin < block.count:
        stop = min(begin + HALF, block.count) - 1
        counts = 0
        for i in range(begin, stop):
            place = block.places[i]
            tokens[i] = next[place][(counts >> (COUNT * place)) & COUNT_MAX]
            counts += <uint64_t>1 << (COUNT * place)
        place = block.places[stop]
        tokens[stop] = next[place][(counts >> (COUNT * place)) & COUNT_MAX]
        next[place] += 1
        for k in range(CLASSES):
            next[k] += (counts >> (COUNT * k)) & COUNT_MAX
        begin += HALF


cdef inline bint take_tokens(
    word_t* steps, const block_t* block, streams_t* streams
) noexcept nogil:
    cdef uint8_t[BLOCK] mixed  # any bytes behind the last word
    cdef in_t tokens = mixed
    cdef uint8_t escaped = 0
    cdef size_t i
    for i in range(CLASSES):
        if streams.next[i] > streams.stops[i]:
            return False
    if block.usual:
        tokens = streams.next[USUAL]
        streams.next[USUAL] += block.count
    elif expands:
        expand_tokens(mixed, block.places, block.present, streams.next, CLASSES)
    else:
        take_one_by_one(mixed, block, streams)
    for i in range(BLOCK):
        steps[i] = tokens[i]
        escaped |= tokens[i] == ESCAPE
    return not escaped or take_escapes(steps, block, streams)


cdef bint take_escapes(word_t* steps, const block_t* block, streams_t* streams) noexcept nogil:
    cdef size_t i
    for i in range(block.count):
        if steps[i] == ESCAPE:
            if streams.escaped == streams.escapes_stop:
                return False
            load(&steps[i], streams.escapes, streams.escaped)
            streams.escaped += 1
    return True


cdef inline void put_low(word_t* step, uint64_t low, int shift) noexcept nogil:
    """Put the lowest `shift` bits of a number below a token."""
    step[0] = <word_t>((<uint64_t>step[0] << shift) | (low & LOW_BITS[shift]))


cdef inline bint take_lows(
    word_t* steps, const block_t* block, streams_t* streams
) noexcept nogil:
    cdef uint64_t deep = block.deep, low
    cdef in_t lows = streams.lows
    cdef size_t bit = streams.bit, i, k
    cdef int shift, more
    if bit > streams.lows_stop:
        return False
    if sizeof(word_t) < 8 and deep == <uint64_t>-1:
        # Two at a time: together they have 7 + 2 * 28 bits at most.
        for k in range(BLOCK // 2):
            i = 2 * k
            shift, more = block.shifts[i], block.shifts[i + 1]
            load(&low, lows + (bit >> 3), 0)
            low >>= bit & 7
            put_low(&steps[i], low, shift)
            put_low(&steps[i + 1], low >> shift, more)
            bit += shift + more
    else:
        while deep:
            i = count_trailing_zeros(deep)
            load(&low, lows + (bit >> 3), 0)
            put_low(&steps[i], low >> (bit & 7), block.shifts[i])
            bit += block.shifts[i]
            deep &= deep - 1
    streams.bit = bit
    return True


cdef inline bint take_block(
    word_t* steps, block_t* block, in_t base, int scale, const kind_t* kind, streams_t* streams
) noexcept nogil:
    place_block(block, base, scale, kind, steps[0])
    if not take_tokens(steps, block, streams):
        return False
    return not block.deep or take_lows(steps, block, streams)


cdef inline void expect(word_t* steps, in_t base, const kind_t* kind) noexcept nogil:
    cdef word_t word
    cdef size_t i
    for i in range(BLOCK):
        load(&word, base, i)
        steps[i] = predicted(word, kind)


cdef inline void finish_block(
    out_t out, in_t base, const word_t* steps, const word_t* expected, word_t floats
) noexcept nogil:
    cdef word_t word, step, turn
    cdef size_t i
    for i in range(BLOCK):
        load(&word, base, i)
        turn = mirror(word, floats)
        step = <word_t>((steps[i] >> 1) ^ (0 - (steps[i] & 1))) + expected[i]
        step = <word_t>((step ^ turn) - turn)
        store(out, i, unordered(<word_t>(ordered(word, floats) + step), floats))


cdef inline bint restore_block(
    out_t out,
    in_t base,
    int scale,
    size_t count,
    streams_t* streams,
    const kind_t* kind,
    word_t floats,
) noexcept nogil:
    """Restore `count` words; `out` and `base` have room for a whole block."""
    cdef word_t[BLOCK] taken
    cdef word_t[BLOCK] predictions
    cdef const word_t* steps = <const word_t*>NOTHING
    cdef const word_t* expected = <const word_t*>NOTHING
    cdef block_t block
    if scale:
        block.count = count
        block.present = <uint64_t>-1 >> (BLOCK - count)
        if not take_block(taken, &block, base, scale, kind, streams):
            return False
        steps = taken
    if kind.table_mask:
        expect(predictions, base, kind)
        expected = predictions
    finish_block(out, base, steps, expected, floats)
    return True


cdef bint restore_words(
    out_t out,
    in_t base,
    in_t scales,
    size_t count,
    streams_t* streams,
    const kind_t* kind,
    word_t floats,
) noexcept nogil:
    """Return whether the streams held just what was needed."""
    cdef word_t[2 * BLOCK] last  # the block that is not whole: of the base, and restored
    cdef size_t size = BLOCK * sizeof(word_t), whole = count // BLOCK, rest = count % BLOCK
    cdef uint16_t scale
    cdef size_t number
    for number in range(whole):
        load(&scale, scales, number)
        if not restore_block(out, base, scale, BLOCK, streams, kind, floats):
            return False
        out += size
        base += size
    if rest:
        memset(last, 0, sizeof(last))
        memcpy(last, base, rest * sizeof(word_t))
        load(&scale, scales, whole)
        if not restore_block(<out_t>&last[BLOCK], <in_t>last, scale, rest, streams, kind, floats):
            return False
        memcpy(out, &last[BLOCK], rest * sizeof(word_t))
    return are_used_up(streams)


cdef bint are_used_up(const streams_t* streams) noexcept nogil:
    cdef size_t k
    for k in range(CLASSES):
        if streams.next[k] != streams.stops[k]:
            return False
    if streams.escaped != streams.escapes_stop:
        return False
    return (streams.bit + 7) >> 3 == streams.lows_stop >> 3


def expanding(bint wanted):
    """Use AVX-512 where it is there, or do not, and return whether it was used: for tests."""
    global expands
    before = expands
    expands = wanted and can_expand()
    return before


def restore(
    const uint8_t[::1] base not None,
    int width,
    int exponent,
    parts,
    const uint8_t[::1] tail not None,
):
    cdef const uint8_t[::1] table = parts.table, scales = parts.scales
    cdef const uint8_t[::1] lows = parts.lows, escapes = parts.escapes
    cdef list tokens = parts.tokens
    cdef kind_t kind = kind_of(width, exponent, table)
    cdef size_t size = base.shape[0], count = size // width
    cdef streams_t streams
    cdef int k
    cdef bint whole = True
    if size % width or escapes.shape[0] % width or len(tokens) != CLASSES:
        raise ValueError(f"{size} bytes, {escapes.shape[0]} of escapes, {len(tokens)} classes")
    if <size_t>scales.shape[0] != 2 * blocks_of(count):
        raise ValueError(f"{scales.shape[0]} bytes of scales for {count} words")
    joined = b"".join([*tokens, bytes(BLOCK)])
    cdef in_t token = <in_t>PyBytes_AS_STRING(joined)
    for k in range(CLASSES):
        streams.next[k] = token
        token += <size_t>len(tokens[k])
        streams.stops[k] = token
    padded = b"".join([lows, bytes(SLACK)])
    streams.lows = <in_t>PyBytes_AS_STRING(padded)
    streams.lows_stop = lows.shape[0] * <size_t>8
    streams.escapes = &escapes[0] if escapes.shape[0] else NULL
    streams.bit = streams.escaped = 0
    streams.escapes_stop = escapes.shape[0] // width
    result = PyBytes_FromStringAndSize(NULL, size + tail.shape[0])
    cdef out_t out = <out_t>PyBytes_AS_STRING(result)
    cdef in_t old = &base[0] if count else NULL
    cdef in_t heights = &scales[0] if count else NULL
    with nogil:
        if width == 1:
            whole = restore_words(
                out, old, heights, count, &streams, &kind, <uint8_t>kind.floats
            )
        elif width == 2:
            whole = restore_words(
                out, old, heights, count, &streams, &kind, <uint16_t>kind.floats
            )
        elif width == 4:
            whole = restore_words(
                out, old, heights, count, &streams, &kind, <uint32_t>kind.floats
            )
        else:
            whole = restore_words(
                out, old, heights, count, &streams, &kind, <uint64_t>kind.floats
            )
    if not whole:
        raise ValueError("streams of another length than the base asks for")
    if tail.shape[0]:
        memcpy(out + size, &tail[0], tail.shape[0])
    return result

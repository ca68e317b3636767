// Matrix products with accumulators in registers, for the instruction set chosen by dispatch.cpp.
//
// No include guard: dispatch.cpp includes this file once for each instruction set. The right factor
// is packed into words: one float, or two consecutive bfloat16 of a column. A step reads one word
// of each column in a group of GROUP columns. Rows and columns are those of the product.

constexpr Index GROUP = VECTOR_BYTES / sizeof(Word);  // columns in a vector

using Vector = float __attribute__((vector_size(VECTOR_BYTES)));
using Words = Word __attribute__((vector_size(VECTOR_BYTES)));
using Halves = std::uint16_t __attribute__((vector_size(VECTOR_BYTES / 2)));
using Integers = std::int32_t __attribute__((vector_size(VECTOR_BYTES)));

INLINE Index whole_groups(Index columns) { return (columns + GROUP - 1) / GROUP * GROUP; }

// Row stride of a block: an odd number of cache lines, so that the rows of a column map to
// different cache sets.
INLINE Index row_stride(Index columns) { return (columns + 15) / 16 * 16 | 16; }

// `load` for this instruction set: clang rejects functions that return vectors of another one.
template <class V, class T>
INLINE V read(const T* from) {
    V vector;
    std::memcpy(&vector, from, sizeof vector);
    return vector;
}

INLINE void store(float* to, Vector from) { std::memcpy(to, &from, sizeof from); }

INLINE void store(BFloat16* to, Vector from) {
#ifdef HAS_BFLOAT16_PRODUCTS
    const __m256i rounded = __m256i(_mm512_cvtneps_pbh(__m512(from)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), rounded);
#else
    Words bits = Words(from);  // rounded to nearest, ties to even
    bits = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const Halves halves = __builtin_convertvector(bits, Halves);
    std::memcpy(to, &halves, sizeof halves);
#endif
}

INLINE Vector read_floats(const float* from) { return read<Vector>(from); }

INLINE Vector read_floats(const BFloat16* from) {
    return Vector(__builtin_convertvector(read<Halves>(from), Words) << 16);
}

// Stores the first columns of a group.
template <class T>
INLINE void store(T* to, Vector from, Index columns) {
    if (columns >= GROUP) return store(to, from);
    T all[GROUP];
    store(all, from);
    std::memcpy(to, all, std::size_t(std::clamp(columns, Index(0), GROUP)) * sizeof(T));
}

// Reads the first columns of a group; the others are zero.
INLINE Vector read_first(const float* from, Index columns) {
    if (columns >= GROUP) return read<Vector>(from);
    float all[GROUP] = {};
    std::memcpy(all, from, std::size_t(std::clamp(columns, Index(0), GROUP)) * sizeof(float));
    return read<Vector>(all);
}

INLINE float sum_of(Vector vector) {
    float lanes[GROUP], total = 0.0f;
    store(lanes, vector);
    for (float lane : lanes) total += lane;
    return total;
}

INLINE Vector multiply_add(const float* a, Words b, Vector sum) { return sum + *a * Vector(b); }

INLINE Vector multiply_add(const BFloat16* a, Words b, Vector sum) {
#ifdef HAS_BFLOAT16_PRODUCTS
    int pair;
    std::memcpy(&pair, a, sizeof pair);
    return Vector(_mm512_dpbf16_ps(__m512(sum), __m512bh(_mm512_set1_epi32(pair)), __m512bh(b)));
#else
    sum = sum + get(a[0]) * Vector(b << 16);
    return sum + get(a[1]) * Vector(b & 0xffff0000u);
#endif
}

// The left factor, with the strides of its rows and steps in numbers.
template <class T>
struct Left {
    const T* numbers;
    Index row, step;
    Left from(Index rows, Index steps) const {
        return {numbers + rows * row + steps * step, row, step};
    }
};

// The right factor, with the strides of its steps and groups in words.
struct Right {
    const Word* words;
    Index step, group;
    Right from(Index steps, Index groups) const {
        return {words + steps * step + groups * group, step, group};
    }
};

// Computes R rows of G groups, cut to the given columns; adds to the output if ADDED. Not inlined,
// so that all registers are available for the sums.
template <Index R, Index G, bool ADDED, class T, class Out>
__attribute__((noinline)) void multiply_tile(Left<T> a, Right b, Index steps, Index columns,
                                             Out* out, Index out_row) {
    UNROLLED
    for (Index r = 0; r < R; ++r) UNROLLED
    for (Index g = 0; g < G; ++g) __builtin_prefetch(out + r * out_row + g * GROUP, 1);
    Vector sums[R][G] = {};
    for (Index step = 0; step < steps; ++step) {
        Words words[G];
        for (Index g = 0; g < G; ++g) words[g] = read<Words>(b.words + g * b.group);
        for (Index r = 0; r < R; ++r)
            for (Index g = 0; g < G; ++g)
                sums[r][g] = multiply_add(a.numbers + r * a.row, words[g], sums[r][g]);
        a.numbers += a.step, b.words += b.step;
    }
    UNROLLED
    for (Index r = 0; r < R; ++r) UNROLLED
    for (Index g = 0; g < G; ++g) {
        Out* to = out + r * out_row + g * GROUP;
        if constexpr (ADDED) sums[r][g] += read_first(to, columns - g * GROUP);
        store(to, sums[r][g], columns - g * GROUP);
    }
}

// Any number of rows of G groups, at most R at once. Five rows are one time step of a stream.
template <Index R, Index G, bool ADDED, class T, class Out>
INLINE void multiply_rows(Index rows, Left<T> a, Right b, Index steps, Index columns, Out* out,
                          Index out_row) {
    for (; rows >= R; rows -= R, a = a.from(R, 0), out += R * out_row) {
        multiply_tile<R, G, ADDED>(a, b, std::min(steps, PIECE<T>), columns, out, out_row);
        if constexpr (IN_WORD<T> == 1)
            for (Index first = PIECE<T>; first < steps; first += PIECE<T>)
                multiply_tile<R, G, true>(a.from(0, first), b.from(first, 0),
                                          std::min(steps - first, PIECE<T>), columns, out, out_row);
    }
    if constexpr (R > 1)
        multiply_rows<(R > 5 ? 5 : R / 2), G, ADDED>(rows, a, b, steps, columns, out, out_row);
}

// Any number of rows, and the columns of one tile, or fewer.
template <bool ADDED, class T, class Out>
INLINE void multiply_columns(Index rows, Left<T> a, Right b, Index steps, Index columns, Out* out,
                             Index out_row) {
    if (AT_ONCE >= 3 && columns > 2 * GROUP)
        multiply_rows<ROWS, AT_ONCE, ADDED>(rows, a, b, steps, columns, out, out_row);
    else if (columns > GROUP)
        multiply_rows<ROWS, 2, ADDED>(rows, a, b, steps, columns, out, out_row);
    else
        multiply_rows<ROWS, 1, ADDED>(rows, a, b, steps, columns, out, out_row);
}

// Steps [first, end) and columns of a product.
struct Part {
    Index first, end, columns;
};

// out [rows, columns] = a b, or added to out if ADDED. Only tiles within the shape are computed;
// `position` is that of the first row or, for STEPS_FROM_ROW, of the first step.
template <bool ADDED, class T, class Out>
void multiply(Shape shape, Index position, Index rows, Index steps, Index columns, Left<T> a,
              Right b, Out* out, Index out_row) {
    const auto part_of = [=](Index row) ALWAYS {
        const Index end = position + std::min(row + ROWS, rows);
        switch (shape) {
            case Shape::COLUMNS_TO_ROW: return Part{0, steps, std::min(columns, whole_groups(end))};
            case Shape::STEPS_TO_ROW: return Part{0, words_of<T>(end), columns};
            case Shape::STEPS_FROM_ROW:
                return Part{std::max(row - position, Index(0)) / IN_WORD<T>, steps, columns};
            default: return Part{0, steps, columns};
        }
    };
    for (Index column = 0; column < columns; column += AT_ONCE * GROUP)
        for (Index row = 0; row < rows; row += ROWS) {
            const Part part = part_of(row);
            if (part.columns > column)
                multiply_columns<ADDED>(std::min(ROWS, rows - row), a.from(row, part.first),
                                        b.from(part.first, column / GROUP), part.end - part.first,
                                        part.columns - column, out + row * out_row + column,
                                        out_row);
        }
}

template <std::size_t... I>
INLINE void interleave(Words a, Words b, Words& low, Words& high, std::index_sequence<I...>) {
    constexpr auto half = GROUP / 2;
#ifdef __clang__
    low = __builtin_shufflevector(a, b, (I / 2 + I % 2 * GROUP)...);
    high = __builtin_shufflevector(a, b, (half + I / 2 + I % 2 * GROUP)...);
#else
    low = __builtin_shuffle(a, b, Words{(I / 2 + I % 2 * GROUP)...});
    high = __builtin_shuffle(a, b, Words{(half + I / 2 + I % 2 * GROUP)...});
#endif
}

// Transposes GROUP rows of GROUP words; each pass moves a bit of the row index to the column.
INLINE void transpose(Words (&rows)[GROUP]) {
    for (Index pass = 1; pass < GROUP; pass *= 2) {
        Words next[GROUP];
        for (Index i = 0; i < GROUP / 2; ++i)
            interleave(rows[i], rows[i + GROUP / 2], next[2 * i], next[2 * i + 1],
                       std::make_index_sequence<GROUP>());
        for (Index i = 0; i < GROUP; ++i) rows[i] = next[i];
    }
}

// The transpose of a matrix [columns, K] as the right factor, [groups, steps, GROUP].
template <class T>
INLINE Right pack_transposed(const T* matrix, Index columns, Index K, Word* packed) {
    const Index steps = K / IN_WORD<T>;
    const Right right{packed, GROUP, steps * GROUP};
    for (Index column = 0; column < columns; column += GROUP)
        for (Index step = 0; step < steps; step += GROUP) {
            const Index some = std::min(GROUP, steps - step);
            Words rows[GROUP] = {};
            for (Index i = 0; i < GROUP; ++i) {  // beyond the end, the last column is repeated
                const T* from = matrix + std::min(column + i, columns - 1) * K + step * IN_WORD<T>;
                if (some == GROUP)
                    rows[i] = read<Words>(from);
                else
                    std::memcpy(&rows[i], from, some * sizeof(Word));
            }
            transpose(rows);
            for (Index i = 0; i < some; ++i, packed += GROUP)
                std::memcpy(packed, &rows[i], sizeof rows[i]);
        }
    return right;
}

// A matrix [steps, K] as the right factor, [steps, whole groups]; packed only if it has to be.
INLINE Right pack(const float* matrix, Index rows, Index K, Word* packed) {
    const Index columns = whole_groups(K);
    if (columns == K) return {reinterpret_cast<const Word*>(matrix), K, GROUP};
    for (Index row = 0; row < rows; ++row) {
        std::memset(packed + row * columns + K, 0, (columns - K) * sizeof(Word));
        std::memcpy(packed + row * columns, matrix + row * K, K * sizeof(Word));
    }
    return {packed, columns, GROUP};
}

INLINE Right pack(const BFloat16* matrix, Index rows, Index K, Word* packed) {
    const Index columns = whole_groups(K);
    for (Index s = 0; s < rows; s += 2) {
        const BFloat16 *row = matrix + s * K, *next = s + 1 < rows ? row + K : row;
        Word* to = packed + s / 2 * columns;
        std::fill(to + K, to + columns, Word(0));
        VECTORIZED
        for (Index i = 0; i < K; ++i) to[i] = Word(row[i].bits) | Word(next[i].bits) << 16;
    }
    return {packed, columns, GROUP};
}

// out [rows, columns] = x [rows, K] times a packed matrix, for the groups of columns [group, end);
// added to the output if ADDED. Rows of x are x_row numbers apart.
//
// The right factor of a tile, a piece of the steps, stays in the first cache; the left factor of
// `most` rows and the output of `most` rows of a tile stay in the second.
template <bool ADDED, class T, class Out>
void product(const T* x, Index x_row, const Word* packed, Index rows, Index K, Index columns,
             Index group, Index end, Out* out) {
    const Index steps = K / IN_WORD<T>, slab = std::min(steps, SLAB<T>);
    const Index most = std::max(ROWS, CACHED / (slab * Index(sizeof(Word))) / ROWS * ROWS);
    const Left<T> a{x, x_row, IN_WORD<T>};
    const Right b{packed, GROUP, steps * GROUP};
    const auto multiply_piece = [&](auto added, Index row, Index g, Index step) ALWAYS {
        const Index some = std::min(PIECE<T>, steps - step);
        multiply_columns<added>(std::min(most, rows - row), a.from(row, step), b.from(step, g),
                                some, (end - g) * GROUP, out + row * columns + g * GROUP, columns);
    };
    for (Index first = 0; first < steps; first += slab)
        for (Index row = 0; row < rows; row += most)
            for (Index g = group; g < end; g += AT_ONCE)
                for (Index step = first; step < std::min(first + slab, steps); step += PIECE<T>)
                    if (step == 0)
                        multiply_piece(std::bool_constant<ADDED>(), row, g, step);
                    else if constexpr (IN_WORD<T> == 1)
                        multiply_piece(std::true_type(), row, g, step);
}

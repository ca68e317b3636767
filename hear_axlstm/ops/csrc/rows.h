// Operations on rows of tokens, for around_cell.h and around_cell_backward.h.
//
// No include guard, as in products.h.

template <Index R>
using Rows = std::integral_constant<Index, R>;

// Calls work(Rows<R>, row) for MOST rows at a time, or for one. The last tile
// overlaps the previous one.
template <Index MOST, class Work>
INLINE void in_rows(Index rows, Work work) {
    for (Index row = 0; row + MOST <= rows; row += MOST) work(Rows<MOST>(), row);
    if (rows >= MOST && rows % MOST) work(Rows<MOST>(), rows - MOST);
    for (Index row = 0; rows < MOST && row < rows; ++row) work(Rows<1>(), row);
}

// Copies numbers; the last vector overlaps the one before it. Rows are too short for memcpy.
template <class From, class To>
INLINE void copy_row(const From* from, Index count, To* to) {
    if (count < GROUP)
        for (Index i = 0; i < count; ++i) put(to + i, get(from[i]));
    else
        for (Index i = 0; i < count; i += GROUP) {
            const Index at = std::min(i, count - GROUP);
            store(to + at, read_floats(from + at));
        }
}

// Copies a row whose channels are ordered by place, [4, H, J], to or from H heads, each a row
// [4, J] of a matrix [S, K].
template <class T>
INLINE void to_heads(const float* row, const Sizes& sizes, T* heads) {
    for (Index h = 0; h < sizes.H; ++h)
        for (Index p = 0; p < PLACES; ++p)
            copy_row(row + (p * sizes.H + h) * sizes.J, sizes.J,
                     heads + h * sizes.S * sizes.K() + p * sizes.J);
}

template <class T>
INLINE void from_heads(const T* heads, const Sizes& sizes, float* row) {
    for (Index h = 0; h < sizes.H; ++h)
        for (Index p = 0; p < PLACES; ++p)
            copy_row(heads + h * sizes.S * sizes.K() + p * sizes.J, sizes.J,
                     row + (p * sizes.H + h) * sizes.J);
}

// The causal convolution of row s of x, before its SiLU; rows before the first one are zero.
template <class T>
INLINE void convolve_row(const T* xz, Index s, Index E, const Weights& weights, float* out) {
    static_assert(WIDTH == 4);
    const float *w = weights.conv, *bias = weights.conv_bias;
    if (s >= WIDTH - 1) {
        const T *x1 = xz - 2 * E, *x2 = x1 - 2 * E, *x3 = x2 - 2 * E;
        VECTORIZED
        for (Index e = 0; e < E; ++e)
            out[e] = bias[e] + w[3 * E + e] * get(xz[e]) + w[2 * E + e] * get(x1[e]) +
                     w[E + e] * get(x2[e]) + w[e] * get(x3[e]);
        return;
    }
    std::copy(bias, bias + E, out);
    for (Index delay = 0; delay <= s; ++delay)
        for (Index e = 0; e < E; ++e) out[e] += w[(3 - delay) * E + e] * get(xz[e - delay * 2 * E]);
}

// hidden = u times factor minus its mean; returns 1 / sqrt(variance + eps).
template <class T>
INLINE float normalize_row(const T* u, float factor, Index K, float eps, float* hidden) {
    float mean = 0.0f, square = 0.0f;
#pragma omp simd reduction(+ : mean)
    for (Index i = 0; i < K; ++i) mean += hidden[i] = get(u[i]) * factor;
    mean /= float(K);
#pragma omp simd reduction(+ : square)
    for (Index i = 0; i < K; ++i) {
        hidden[i] -= mean;
        square += hidden[i] * hidden[i];
    }
    return 1.0f / std::sqrt(square / float(K) + eps);
}

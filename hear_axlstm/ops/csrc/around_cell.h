// The operations of an mLSTM block between its matrix products, in few passes over memory.
//
// No include guard, as in products.h. Gate activations are computed elsewhere: the functions here
// return pre-activations and take the quantities derived from them. Arithmetic is in float; large
// tensors are float or bfloat16.
//
// Shapes: B windows, S tokens, H heads, N = B H, J 4 x 4 blocks of the maps in a head, K = 4 J head
// size, E = H K. Channels of x are ordered by their place in the 4 x 4 block, [4, H, J]; those of a
// head, [4, J].

// out [R, G] = c [R, E] times gates_c [G, E] transposed, plus the same of x, plus the bias.
template <Index R>
INLINE void gate_rows(const float* c, const float* x, const Weights& weights, Index E, Index G,
                      float* out) {
    for (Index g = 0; g < G; g += 2) {
        Vector sums[2][R] = {};  // 2 R independent sums
        const float *inputs[] = {c, x}, *matrices[] = {weights.gates_c, weights.gates_x};
        for (Index side = 0; side < 2; ++side)
            for (Index e = 0; e < E; e += GROUP) {
                const float *in = inputs[side] + e, *weight = matrices[side] + g * E + e;
                const Vector first = read_first(weight, E - e),
                             second = read_first(weight + E, E - e);
                for (Index r = 0; r < R; ++r) {
                    const Vector row = read_first(in + r * E, E - e);
                    sums[0][r] += row * first;
                    sums[1][r] += row * second;
                }
            }
        for (Index r = 0; r < R; ++r)
            for (Index i = 0; i < 2; ++i)
                out[r * G + g + i] = sum_of(sums[i][r]) + weights.gate_bias[g + i];
    }
}

// A block-diagonal map of rows [R, E], weights [in 4, out 4, H J], to rows [R, E].
template <Index R>
INLINE void map_rows(const float* in, const float* weight, Index E, float* out) {
    const Index HJ = E / PLACES;
    for (Index p = 0; p < PLACES; ++p) {
        const float* w = weight + p * HJ;
        VECTORIZED
        for (Index j = 0; j < HJ; ++j)
            for (Index r = 0; r < R; ++r) {
                const float* x = in + r * E + j;
                out[r * E + p * HJ + j] = x[0] * w[j] + x[HJ] * w[E + j] +
                                          x[2 * HJ] * w[2 * E + j] + x[3 * HJ] * w[3 * E + j];
            }
    }
}

// Convolution, maps and gates of tokens [first, end) of all windows. c, which is also the query, k
// and v are [N, S, K], gates [B, S, 2 H] pre-activations. If B is 1, `earlier` rows of the same
// window may precede xz.
template <class T>
void before_cell(const T* xz, const Sizes& sizes, const Weights& weights, Index earlier,
                 Index first, Index end, T* c, T* k, T* v, float* gates) {
    const Index E = sizes.E(), G = 2 * sizes.H;
    Buffer<float> buffers(3 * TOKENS * E);
    float *x_rows = buffers.data(), *c_rows = x_rows + TOKENS * E, *mapped = c_rows + TOKENS * E;
    while (first < end) {
        const Index b = first / sizes.S, s = first % sizes.S,
                    rows = std::min(end - first, sizes.S - s);
        in_rows<TOKENS>(rows, [&](auto R, Index row) ALWAYS {
            const Index token = first + row, at = (b * sizes.H * sizes.S + s + row) * sizes.K();
            for (Index r = 0; r < R; ++r) {
                const T* x = xz + (token + r) * 2 * E;
                float *x_row = x_rows + r * E, *c_row = c_rows + r * E;
                convolve_row(x, earlier + s + row + r, E, weights, c_row);
                VECTORIZED
                for (Index e = 0; e < E; ++e) {
                    c_row[e] = silu(c_row[e]);
                    x_row[e] = get(x[e]);
                }
                to_heads(c_row, sizes, c + at + r * sizes.K());
            }
            map_rows<R>(c_rows, weights.key, E, mapped);
            for (Index r = 0; r < R; ++r) to_heads(mapped + r * E, sizes, k + at + r * sizes.K());
            map_rows<R>(x_rows, weights.value, E, mapped);
            for (Index r = 0; r < R; ++r) to_heads(mapped + r * E, sizes, v + at + r * sizes.K());
            gate_rows<R>(c_rows, x_rows, weights, E, G, gates + token * G);
        });
        first += rows;
    }
}

// Normalizes u [N, S, K] of heads [first, end) by its sums [N, S], norms every head, adds the skip
// of c and gates by SiLU(z), into out [B, S, E], whose rows are `out_row` numbers apart.
template <class T>
void after_cell(const T* u, const float* sums, const float* floor, const T* c, const T* xz,
                const Sizes& sizes, const Weights& weights, float cell_eps, float norm_eps,
                Index first, Index end, Index out_row, T* out) {
    const Index S = sizes.S, K = sizes.K(), E = sizes.E();
    Buffer<float> row(K);
    float* hidden = row.data();
    for (Index n = first; n < end; ++n) {
        const Index b = n / sizes.H, h = n % sizes.H;
        const float *norm = weights.norm + h * K, *skip = weights.skip + h * K;
        for (Index s = 0; s < S; ++s) {
            const Index token = n * S + s;
            const float size = std::max(std::abs(sums[token]), floor[token]) + cell_eps;
            const float scale = normalize_row(u + token * K, 1.0f / size, K, norm_eps, hidden);
            const T *c_row = c + token * K, *z = xz + (b * S + s) * 2 * E + E + h * K;
            T* to = out + (b * S + s) * out_row + h * K;
            VECTORIZED
            for (Index i = 0; i < K; ++i)
                put(to + i,
                    (hidden[i] * scale * norm[i] + get(c_row[i]) * skip[i]) * silu(get(z[i])));
        }
    }
}

// The norm before a block, of tokens [rows, D].
template <class T>
void layer_norm(const float* tokens, const float* norm, Index rows, Index D, float eps, T* out) {
    Buffer<float> row(D);
    float* hidden = row.data();
    for (; rows > 0; --rows, tokens += D, out += D) {
        const float scale = normalize_row(tokens, 1.0f, D, eps, hidden);
        VECTORIZED
        for (Index i = 0; i < D; ++i) put(out + i, hidden[i] * scale * norm[i]);
    }
}

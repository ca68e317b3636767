// Gradients of the functions in around_cell.h. Those of weights are added to the given tensors.
//
// No include guard, as in products.h.

// From d out [B, S, E] to d u [N, S, K], d sums and d floor [N, S], and, through the skip and the
// output gate, to d c [N, S, K] and d z.
template <class T>
void after_cell_backward(const T* u, const float* sums, const float* floor, const T* c, const T* xz,
                         const Sizes& sizes, const Weights& weights, float cell_eps, float norm_eps,
                         const T* d_out, T* d_u, float* d_sums, float* d_floor, float* d_c, T* d_xz,
                         const Gradients& d) {
    const Index S = sizes.S, K = sizes.K(), E = sizes.E();
    Buffer<float> rows(2 * K);
    float *normed = rows.data(), *d_hidden = normed + K;
    for (Index b = 0; b < sizes.B; ++b)
        for (Index h = 0; h < sizes.H; ++h)
            for (Index s = 0; s < S; ++s) {
                const Index token = (b * sizes.H + h) * S + s;
                const T* u_row = u + token * K;
                const float sum = sums[token], least = floor[token];
                const float factor = 1.0f / (std::max(std::abs(sum), least) + cell_eps);
                const float scale = normalize_row(u_row, factor, K, norm_eps, normed);
                const float *norm = weights.norm + h * K, *skip = weights.skip + h * K;
                float *d_norm = d.norm + h * K, *d_skip = d.skip + h * K;
                const Index at = (b * S + s) * E + h * K, at_z = (b * S + s) * 2 * E + E + h * K;
                const T *c_row = c + token * K, *z = xz + at_z, *d_row = d_out + at;
                float* d_c_row = d_c + token * K;
                T *d_z = d_xz + at_z, *d_u_row = d_u + token * K;
                float mean = 0.0f, along = 0.0f;
#pragma omp simd reduction(+ : mean, along)
                for (Index i = 0; i < K; ++i) {
                    const float z_i = get(z[i]), c_i = get(c_row[i]), open = sigmoid(z_i);
                    const float normed_i = normed[i] * scale;
                    const float gated = normed_i * norm[i] + c_i * skip[i], d_i = get(d_row[i]);
                    const float d_gated = d_i * z_i * open;
                    put(d_z + i, d_i * gated * open * (1.0f + z_i * (1.0f - open)));
                    d_norm[i] += d_gated * normed_i;
                    d_skip[i] += d_gated * c_i;
                    d_c_row[i] = d_gated * skip[i];
                    normed[i] = normed_i;
                    d_hidden[i] = d_gated * norm[i];
                    mean += d_hidden[i];
                    along += d_hidden[i] * normed_i;
                }
                mean /= float(K);
                along /= float(K);
                float projection = 0.0f;  // d hidden . hidden
#pragma omp simd reduction(+ : projection)
                for (Index i = 0; i < K; ++i) {
                    const float d_i = scale * (d_hidden[i] - mean - normed[i] * along);
                    projection += d_i * get(u_row[i]);
                    put(d_u_row + i, d_i * factor);
                }
                const float d_size = -projection * factor * factor;
                const bool by_sum = std::abs(sum) >= least;
                d_sums[token] = by_sum ? std::copysign(d_size, d_size * sum) : 0.0f;
                d_floor[token] = by_sum ? 0.0f : d_size;
            }
}

// Gradients of out_n = sum_e in_e weight_ne, for the lanes of V in R rows. Rows of `in` and d in are
// E numbers apart, weights of consecutive outputs `step`; d_of(n, r) is d out.
template <class V, Index R, class GradientOf>
INLINE void linear_lanes(const float* in, const float* weight, Index outputs, Index step, Index E,
                         float* d_in, float* d_weight, GradientOf d_of) {
    V in_rows[R], d_in_rows[R];
    for (Index r = 0; r < R; ++r) {
        in_rows[r] = read<V>(in + r * E);
        d_in_rows[r] = read<V>(d_in + r * E);
    }
    for (Index n = 0; n < outputs; ++n) {
        const V w = read<V>(weight + n * step);
        V d_w = read<V>(d_weight + n * step);
        for (Index r = 0; r < R; ++r) {
            const auto d = d_of(n, r);
            d_in_rows[r] += w * d;
            d_w += in_rows[r] * d;
        }
        std::memcpy(d_weight + n * step, &d_w, sizeof d_w);
    }
    for (Index r = 0; r < R; ++r) std::memcpy(d_in + r * E, &d_in_rows[r], sizeof(V));
}

// Passes a type without a value, since calling conventions for vectors differ between targets.
template <class T>
struct Type {
    using type = T;
};

// Calls work(type of the lanes, first) for all numbers.
template <class Work>
INLINE void in_lanes(Index numbers, Work work) {
    Index i = 0;
    for (; i + GROUP <= numbers; i += GROUP) work(Type<Vector>(), i);
    for (; i < numbers; ++i) work(Type<float>(), i);
}

// Adds to d in and d weight of a block-diagonal map of R rows [R, E], from d out.
template <Index R>
INLINE void map_rows_backward(const float* in, const float* weight, const float* d_out, Index E,
                              float* d_in, float* d_weight) {
    const Index HJ = E / PLACES;
    for (Index p = 0; p < PLACES; ++p)
        in_lanes(HJ, [&](auto lanes, Index j) ALWAYS {
            using V = typename decltype(lanes)::type;
            const Index at = p * HJ + j, at_weight = p * E + j;
            linear_lanes<V, R>(
                in + at, weight + at_weight, PLACES, HJ, E, d_in + at, d_weight + at_weight,
                [&](Index q, Index r) ALWAYS { return read<V>(d_out + r * E + q * HJ + j); });
        });
}

// Adds to d in and d weight of the gates of R rows [R, E].
template <Index R>
INLINE void gate_rows_backward(const float* in, const float* weight, const float* d_gates, Index G,
                               Index E, float* d_in, float* d_weight) {
    in_lanes(E, [&](auto lanes, Index e) ALWAYS {
        linear_lanes<typename decltype(lanes)::type, R>(
            in + e, weight + e, G, E, E, d_in + e, d_weight + e,
            [&](Index g, Index r) ALWAYS { return d_gates[r * G + g]; });
    });
}

// Buffers for TOKENS tokens, and for d x of a window.
struct Buffers {
    Buffers(Index S, Index E) : rows(6 * TOKENS * E), d_x(S * E) {}
    Buffer<float> rows, d_x;
};

// As `before_cell`, for R tokens of window b, starting at token s.
template <Index R, class T>
INLINE void before_cell_rows_backward(const T* xz, const Sizes& sizes, const Weights& weights,
                                      Index b, Index s, const float* d_gates, const float* d_c,
                                      const T* d_q, const T* d_k, const T* d_v, Buffers& scratch,
                                      const Gradients& d) {
    const Index E = sizes.E(), S = sizes.S, G = 2 * sizes.H, token = b * S + s;
    float *x_rows = scratch.rows.data(), *before = x_rows + R * E, *c_rows = before + R * E,
          *d_before = c_rows + R * E, *d_key = d_before + R * E, *d_value = d_key + R * E,
          *d_x = scratch.d_x.data() + s * E;
    for (Index r = 0; r < R; ++r) {
        const T* x = xz + (token + r) * 2 * E;
        const Index row = r * E, at = (b * sizes.H * S + s + r) * sizes.K();
        convolve_row(x, s + r, E, weights, before + row);
        VECTORIZED
        for (Index e = 0; e < E; ++e) {
            c_rows[row + e] = silu(before[row + e]);
            x_rows[row + e] = get(x[e]);
        }
        from_heads(d_c + at, sizes, d_before + row);  // becomes d c, then d before
        from_heads(d_q + at, sizes, d_key + row);
        VECTORIZED
        for (Index e = 0; e < E; ++e) d_before[row + e] += d_key[row + e];
        from_heads(d_k + at, sizes, d_key + row);
        from_heads(d_v + at, sizes, d_value + row);
    }
    map_rows_backward<R>(c_rows, weights.key, d_key, E, d_before, d.key);
    map_rows_backward<R>(x_rows, weights.value, d_value, E, d_x, d.value);
    const float* d_g = d_gates + token * G;
    gate_rows_backward<R>(c_rows, weights.gates_c, d_g, G, E, d_before, d.gates_c);
    gate_rows_backward<R>(x_rows, weights.gates_x, d_g, G, E, d_x, d.gates_x);
    for (Index r = 0; r < R; ++r) {
        float *d_row = d_before + r * E, *before_row = before + r * E;
        for (Index g = 0; g < G; ++g) d.gate_bias[g] += d_g[r * G + g];
        VECTORIZED
        for (Index e = 0; e < E; ++e) {
            const float open = sigmoid(before_row[e]);
            d_row[e] *= open * (1.0f + before_row[e] * (1.0f - open));
            d.conv_bias[e] += d_row[e];
        }
        for (Index delay = 0; delay < WIDTH && delay <= s + r; ++delay) {
            const T* earlier = xz + (token + r - delay) * 2 * E;
            const float* w = weights.conv + (WIDTH - 1 - delay) * E;
            float *d_w = d.conv + (WIDTH - 1 - delay) * E, *d_earlier = d_x + (r - delay) * E;
            VECTORIZED
            for (Index e = 0; e < E; ++e) {
                d_w[e] += d_row[e] * get(earlier[e]);
                d_earlier[e] += d_row[e] * w[e];
            }
        }
    }
}

// From the gradients of the gates' pre-activations [B, S, 2 H], of c (from the skip), q, k and v
// [N, S, K] to d x.
template <class T>
void before_cell_backward(const T* xz, const Sizes& sizes, const Weights& weights,
                          const float* d_gates, const float* d_c, const T* d_q, const T* d_k,
                          const T* d_v, T* d_xz, const Gradients& d) {
    const Index E = sizes.E(), S = sizes.S;
    Buffers scratch(S, E);
    for (Index b = 0; b < sizes.B; ++b) {
        std::fill(scratch.d_x.begin(), scratch.d_x.end(), 0.0f);
        const auto rows = [&](auto R, Index s) ALWAYS {
            before_cell_rows_backward<R>(xz, sizes, weights, b, s, d_gates, d_c, d_q, d_k, d_v,
                                         scratch, d);
        };
        const Index most = S / TOKENS * TOKENS;
        for (Index s = 0; s < most; s += TOKENS) rows(Rows<TOKENS>(), s);
        for (Index s = most; s < S; ++s) rows(Rows<1>(), s);
        for (Index s = 0; s < S; ++s) {
            const float* d_x = scratch.d_x.data() + s * E;
            T* to = d_xz + (b * S + s) * 2 * E;
            VECTORIZED
            for (Index e = 0; e < E; ++e) put(to + e, d_x[e]);
        }
    }
}

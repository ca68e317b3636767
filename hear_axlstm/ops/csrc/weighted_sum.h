// The sums of the mLSTM cell and their gradients, for the instruction set chosen by dispatch.cpp.
//
// No include guard, as in products.h. Query rows are processed in blocks, so that their scores stay
// in the cache; tiles above the diagonal are skipped.
//
// Shapes: S tokens, K head size; a block has R query rows and sees C keys.

// exp(a_s - M_t) as exp(a_s - reference) exp(reference - M_t), for the rows of a block in reverse
// order.
class Decay {
public:
    Decay(Index S) : a_(whole_groups(S)), columns_(whole_groups(S)) {}

    // Starts another head, with a [S].
    void start(const double* a, Index S) { std::copy(a, a + S, a_.begin()); }

    // Starts a block whose rows see up to this many keys.
    void start_block(Index seen) { seen_ = whole_groups(seen), reference_ = INFINITY; }

    // The factor of a row, exp(reference - M_t).
    ALWAYS float factor(double running_max) {
        if (reference_ - running_max > MODERATE) {
            reference_ = running_max;
            const double* a = a_.data();
            float* columns = columns_.data();
            VECTORIZED
            for (Index s = 0; s < seen_; ++s) columns[s] = exp_of(float(a[s] - running_max));
        }
        return exp_of(float(reference_ - running_max));
    }

    // The factors of the keys, exp(a_s - reference).
    const float* columns() const { return columns_.data(); }

private:
    Buffer<double> a_;
    Buffer<float> columns_;
    Index seen_ = 0;
    double reference_ = INFINITY;
};

// A group of scores from key s on, with zeros for keys after row t.
INLINE Vector seen_of(Vector group, Index s, Index t) {
    if (t >= s + GROUP - 1) return group;
    Integers position;
    for (Index i = 0; i < GROUP; ++i) position[i] = std::int32_t(i);
    return Vector(Integers(group) & (position <= std::int32_t(t - s)));
}

// scores_s become q . k_s exp(a_s - M_t) for s <= t, else 0, for whole groups; returns their sum.
INLINE float weigh(const float* decay, float factor, Index t, Index columns, float* scores) {
    Vector sum = {};
    for (Index s = 0; s < columns; s += GROUP) {
        const Vector weights = read<Vector>(decay + s) * factor;
        const Vector group = seen_of(read<Vector>(scores + s) * weights, s, t);
        sum += group;
        store(scores + s, group);
    }
    return sum_of(sum);
}

// As `weigh`; d_scores, the gradients of the weighted scores, become those of the scores. Adds to
// the gradients of a and returns that of M_t, negated.
INLINE float weigh_backward(const float* decay, float factor, float d_sum, Index t, Index columns,
                            float* scores, float* d_scores, float* d_a) {
    Vector sum = {};
    for (Index s = 0; s < columns; s += GROUP) {
        const Vector weights = read<Vector>(decay + s) * factor;
        const Vector group = seen_of(read<Vector>(scores + s) * weights, s, t);
        const Vector d_group = seen_of(read<Vector>(d_scores + s) + d_sum, s, t);
        sum += group * d_group;
        store(d_a + s, read<Vector>(d_a + s) + group * d_group);
        store(scores + s, group);
        store(d_scores + s, seen_of(d_group * weights, s, t));
    }
    return sum_of(sum);
}

// A block [rows, columns] as the left factor; only its first `seen` columns are used.
INLINE Left<float> left(const float* block, Index, Index, Index columns, float*) {
    return {block, columns, 1};
}

INLINE Left<BFloat16> left(const float* block, Index rows, Index seen, Index columns,
                           BFloat16* packed) {
    for (Index row = 0; row < rows; ++row)
        for (Index s = 0; s < seen; s += GROUP)
            store(packed + row * columns + s, read<Vector>(block + row * columns + s));
    return {packed, columns, 2};
}

// The transpose of such a block as the left factor.
INLINE Left<float> left_transposed(const float* block, Index, Index, Index columns, float*) {
    return {block, 1, columns};
}

INLINE Left<BFloat16> left_transposed(const float* block, Index rows, Index seen, Index columns,
                                      BFloat16* packed) {
    for (Index row = 0; row < rows; row += 2) {  // in pairs; an odd last row is paired with zeros
        const float *upper = block + row * columns, *lower = upper + columns;
        const float present = row + 1 < rows ? 1.0f : 0.0f;
        BFloat16* to = packed + row * columns;
        VECTORIZED
        for (Index s = 0; s < seen; ++s) {
            put(to + 2 * s, upper[s]);
            put(to + 2 * s + 1, present * lower[s]);
        }
    }
    return {packed, 2, 2 * columns};
}

// u_t = sum_s w_ts v_s and n_t = sum_s w_ts with w_ts = q_t . k_s exp(a_s - M_t) for s <= t, for
// some heads.
template <class T>
void weighted_sum(const T* q, const T* k, const T* v, Index heads, Index S, Index K,
                  const double* a, const double* running_max, T* u, float* n) {
    const Index steps = K / IN_WORD<T>, columns = whole_groups(S), stride = row_stride(S);
    Buffer<Word> keys(columns * steps), values(words_of<T>(S) * whole_groups(K));
    Buffer<float> scores(QUERY_ROWS * stride);
    Buffer<T> lower(IN_WORD<T> == 1 ? 0 : QUERY_ROWS * stride);
    Decay decay(S);
    for (; heads > 0; --heads) {
        decay.start(a, S);
        const Right keys_KS = pack_transposed(k, S, K, keys.data());
        const Right values_SK = pack(v, S, K, values.data());
        for (Index first = 0; first < S; first += QUERY_ROWS) {
            const Index rows = std::min(QUERY_ROWS, S - first), seen = first + rows;
            multiply<false>(Shape::COLUMNS_TO_ROW, first, rows, steps, columns,
                            Left<T>{q + first * K, K, IN_WORD<T>}, keys_KS, scores.data(), stride);
            decay.start_block(seen);
            for (Index row = rows - 1; row >= 0; --row) {
                const Index t = first + row, wide = whole_groups(std::min(t + ROWS, seen));
                const float factor = decay.factor(running_max[t]);
                n[t] = weigh(decay.columns(), factor, t, wide, scores.data() + row * stride);
            }
            multiply<false>(Shape::STEPS_TO_ROW, first, rows, 0, K,
                            left(scores.data(), rows, seen, stride, lower.data()), values_SK,
                            u + first * K, K);
        }
        q += S * K, k += S * K, v += S * K, u += S * K;
        a += S, running_max += S, n += S;
    }
}

// Gradients of q, k, v, a and M from those of u and n, for some heads.
template <class T>
void weighted_sum_backward(const T* q, const T* k, const T* v, Index heads, Index S, Index K,
                           const double* a, const double* running_max, const T* d_u,
                           const float* d_n, T* d_q, T* d_k, T* d_v, float* d_a,
                           float* d_running_max) {
    const Index steps = K / IN_WORD<T>, columns = whole_groups(S), stride = row_stride(S);
    const Index wide_K = whole_groups(K);
    const Index words = words_of<T>(S) * wide_K;
    Buffer<Word> keys(words), queries(words), d_sums(words);
    Buffer<Word> keys_t(columns * steps), values_t(columns * steps);
    Buffer<float> scores(QUERY_ROWS * stride), d_scores(QUERY_ROWS * stride), d_a_sum(columns);
    Buffer<float> d_k_sum(S * wide_K), d_v_sum(S * wide_K);
    Buffer<T> lower(IN_WORD<T> == 1 ? 0 : QUERY_ROWS * stride);
    Decay decay(S);
    for (; heads > 0; --heads) {
        decay.start(a, S);
        const Right keys_KS = pack_transposed(k, S, K, keys_t.data());
        const Right values_KS = pack_transposed(v, S, K, values_t.data());
        const Right keys_SK = pack(k, S, K, keys.data());
        const Right queries_SK = pack(q, S, K, queries.data());
        const Right d_u_SK = pack(d_u, S, K, d_sums.data());
        for (Buffer<float>* sum : {&d_k_sum, &d_v_sum, &d_a_sum})
            std::fill(sum->begin(), sum->end(), 0.0f);
        for (Index first = 0; first < S; first += QUERY_ROWS) {
            const Index rows = std::min(QUERY_ROWS, S - first), seen = first + rows;
            multiply<false>(Shape::COLUMNS_TO_ROW, first, rows, steps, columns,
                            Left<T>{q + first * K, K, IN_WORD<T>}, keys_KS, scores.data(), stride);
            multiply<false>(Shape::COLUMNS_TO_ROW, first, rows, steps, columns,
                            Left<T>{d_u + first * K, K, IN_WORD<T>}, values_KS, d_scores.data(),
                            stride);
            decay.start_block(seen);
            for (Index row = rows - 1; row >= 0; --row) {
                const Index t = first + row, wide = whole_groups(std::min(t + ROWS, seen));
                const float factor = decay.factor(running_max[t]);
                d_running_max[t] = -weigh_backward(decay.columns(), factor, d_n[t], t, wide,
                                                   scores.data() + row * stride,
                                                   d_scores.data() + row * stride, d_a_sum.data());
            }
            const Index before = first / IN_WORD<T>, pairs = words_of<T>(rows);
            multiply<true>(Shape::STEPS_FROM_ROW, first, seen, pairs, wide_K,
                           left_transposed(scores.data(), rows, seen, stride, lower.data()),
                           d_u_SK.from(before, 0), d_v_sum.data(), wide_K);
            multiply<true>(Shape::STEPS_FROM_ROW, first, seen, pairs, wide_K,
                           left_transposed(d_scores.data(), rows, seen, stride, lower.data()),
                           queries_SK.from(before, 0), d_k_sum.data(), wide_K);
            multiply<false>(Shape::STEPS_TO_ROW, first, rows, 0, K,
                            left(d_scores.data(), rows, seen, stride, lower.data()), keys_SK,
                            d_q + first * K, K);
        }
        std::copy(d_a_sum.begin(), d_a_sum.begin() + S, d_a);
        for (Index s = 0; s < S; ++s) {
            VECTORIZED
            for (Index i = 0; i < K; ++i) {
                put(d_k + s * K + i, d_k_sum[s * wide_K + i]);
                put(d_v + s * K + i, d_v_sum[s * wide_K + i]);
            }
        }
        q += S * K, k += S * K, v += S * K, d_u += S * K, d_q += S * K, d_k += S * K, d_v += S * K;
        a += S, running_max += S, d_n += S, d_a += S, d_running_max += S;
    }
}

// Adds the contribution of the state before the first token to u and n, and updates the state to
// that after the last token, for some heads. memory [K, K], value by key, and normalizer [K] are
// divided by exp(m).
template <class T>
void add_state(const T* q, const T* k, const T* v, Index heads, Index S, Index K, const double* a,
               const double* running_max, const double* m, float* memory, float* normalizer, T* u,
               float* n) {
    const Index wide_S = whole_groups(S);
    Buffer<float> queries(S * K), keys(S * K), values(S * K), before(K * wide_S);
    Buffer<Word> queries_t(K * wide_S), packed_keys(S * whole_groups(K));
    const auto decay = [](double exponent) { return exp_of(float(std::max(exponent, -87.0))); };
    for (; heads > 0; --heads) {
        const double last = running_max[S - 1];
        for (Index t = 0; t < S; ++t) {
            const float since = decay(*m - running_max[t]), until = decay(a[t] - last);
            const Index row = t * K;
            VECTORIZED
            for (Index i = row; i < row + K; ++i) {
                queries[i] = get(q[i]) * since;
                keys[i] = get(k[i]) * until;
                values[i] = get(v[i]);
            }
        }
        multiply<false>(Shape::WHOLE, 0, K, K, S, Left<float>{memory, K, 1},
                        pack_transposed(queries.data(), S, K, queries_t.data()), before.data(),
                        wide_S);
        for (Index t = 0; t < S; ++t) {
            float sum = 0.0f;
            for (Index i = 0; i < K; ++i) {
                sum += queries[t * K + i] * normalizer[i];
                put(u + t * K + i, get(u[t * K + i]) + before[i * wide_S + t]);
            }
            n[t] += sum;
        }
        const float kept = decay(*m - last);
        for (Index i = 0; i < K; ++i) {
            normalizer[i] *= kept;
            for (Index t = 0; t < S; ++t) normalizer[i] += keys[t * K + i];
        }
        VECTORIZED
        for (Index i = 0; i < K * K; ++i) memory[i] *= kept;
        multiply<true>(Shape::WHOLE, 0, K, S, K, Left<float>{values.data(), 1, K},
                       pack(keys.data(), S, K, packed_keys.data()), memory, K);
        q += S * K, k += S * K, v += S * K, u += S * K;
        a += S, running_max += S, n += S;
        m += 1, memory += K * K, normalizer += K;
    }
}

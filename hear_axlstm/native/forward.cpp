// What an mLSTM block computes between its matrix products, in as few passes over memory as can be.
//
// Optional: setup.py builds it where there is a compiler, `library.py` calls it. Numbers are float
// inside; large tensors are float or bfloat16. The compiler makes the loops into vector instructions.
//
// Shapes: B windows, S tokens, H heads, N = B H, J 4 x 4 blocks of the maps in a head, K = 4 J head
// size, E = H K. Channels of x lie by place in their 4 x 4 block, [4, H, J]; those of a head, [4, J].

#include "numbers.h"

namespace {

constexpr Index VERSION = 1;  // of what this folder exports, to be raised with every change of it

// Adds to out[g] the product of a row and each of G rows of a weight; some at once, as each waits for
// its sum before the next step.
template <Index AT_ONCE>
INLINE Index add_products(const float* row, const float* weight, Index E, Index g, Index G,
                          float* out) {
    constexpr Index LANES = 16;
    const Index whole = E - E % LANES;
    for (; g + AT_ONCE <= G; g += AT_ONCE) {
        float sums[AT_ONCE][LANES] = {};
        const float* w = weight + g * E;
        for (Index e = 0; e < whole; e += LANES)
            for (Index i = 0; i < AT_ONCE; ++i) {
                VECTORIZED
                for (Index lane = 0; lane < LANES; ++lane)
                    sums[i][lane] += row[e + lane] * w[i * E + e + lane];
            }
        for (Index i = 0; i < AT_ONCE; ++i) {
            for (Index e = whole; e < E; ++e) out[g + i] += row[e] * w[i * E + e];
            for (Index lane = 0; lane < LANES; ++lane) out[g + i] += sums[i][lane];
        }
    }
    return g;
}

INLINE void add_products(const float* row, const float* weight, Index E, Index G, float* out) {
    const Index done = add_products<8>(row, weight, E, 0, G, out);
    add_products<1>(row, weight, E, done, G, out);
}

// A block-diagonal map of a row, weights [in 4, out 4, H J].
INLINE void map_row(const float* in, const float* weight, Index HJ, float* out) {
    const Index step = PLACES * HJ;
    for (Index p = 0; p < PLACES; ++p) {
        const float* w = weight + p * HJ;
        float* to = out + p * HJ;
        VECTORIZED
        for (Index j = 0; j < HJ; ++j)
            to[j] = in[j] * w[j] + in[HJ + j] * w[step + j] + in[2 * HJ + j] * w[2 * step + j] +
                    in[3 * HJ + j] * w[3 * step + j];
    }
}

// a_s = log i_s - F_s, its running maximum M_s, and sqrt(K) exp(-m_s) with m_s = F_s + M_s.
INLINE void scan(const float* gates, const Sizes& is, bool sigmoid_input, double* a, double* top,
                 float* floor) {
    const Index H = is.H, S = is.S;
    for (Index h = 0; h < H; ++h) {
        double total = 0.0, highest = -INFINITY;
        for (Index s = 0; s < S; ++s) {
            const double input = gates[s * 2 * H + h];
            total += log_sigmoid(gates[s * 2 * H + H + h]);
            a[h * S + s] = (sigmoid_input ? log_sigmoid(input) : input) - total;
            top[h * S + s] = highest = std::max(highest, a[h * S + s]);
            floor[h * S + s] = float(std::sqrt(double(is.K())) * std::exp(-(total + highest)));
        }
    }
}

// Convolution, maps and gates of all rows. c, which is also the query, k and v are [N, S, K], gates
// [B, S, 2 H] pre-activations.
template <class T>
INLINE void before_cell(const T* xz, const Sizes& is, bool sigmoid_input, const Weights& weights,
                        T* c, T* k, T* v, float* gates, double* a, double* top, float* floor) {
    const Index E = is.E(), G = 2 * is.H;
    std::vector<float> rows(3 * E);
    float *x_row = rows.data(), *c_row = x_row + E, *mapped = c_row + E;
    for (Index b = 0; b < is.B; ++b) {
        for (Index s = 0; s < is.S; ++s) {
            const T* x = xz + (b * is.S + s) * 2 * E;
            convolve_row(x, s, E, weights, c_row);
            VECTORIZED
            for (Index e = 0; e < E; ++e) c_row[e] = silu(c_row[e]);
            VECTORIZED
            for (Index e = 0; e < E; ++e) x_row[e] = get(x[e]);
            const Index at = b * is.H * is.S * is.K() + s * is.K();
            to_heads(c_row, is, c + at);
            map_row(c_row, weights.key, is.HJ(), mapped);
            to_heads(mapped, is, k + at);
            map_row(x_row, weights.value, is.HJ(), mapped);
            to_heads(mapped, is, v + at);
            float* gates_row = gates + (b * is.S + s) * G;
            std::copy(weights.gate_bias, weights.gate_bias + G, gates_row);
            add_products(c_row, weights.gates_c, E, G, gates_row);
            add_products(x_row, weights.gates_x, E, G, gates_row);
        }
        const Index heads = b * is.H * is.S;
        scan(gates + b * is.S * G, is, sigmoid_input, a + heads, top + heads, floor + heads);
    }
}

// scores [N, R, C], of rows `first` on, times exp(a_s - M_t) for s <= t, else 0; and their sums.
template <class T>
INLINE void weigh(T* scores, Index N, Index R, Index C, Index first, Index S, const double* a,
                  const double* top, float* sums) {
    for (Index n = 0; n < N; ++n)
        for (Index r = 0; r < R; ++r) {
            const Index t = first + r;
            const double *a_n = a + n * S, top_t = top[n * S + t];
            T* row = scores + (n * R + r) * C;
            float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
            for (Index s = 0; s <= t; ++s) {
                const float weighted = get(row[s]) * exp_of(float(a_n[s] - top_t));
                sum += weighted;
                put(row + s, weighted);
            }
            for (Index s = t + 1; s < C; ++s) put(row + s, 0.0f);
            sums[n * R + r] = sum;
        }
}

// Normalizes, norms every head, adds the skip of c and gates by SiLU(z): u [N, R, K] of the rows from
// `first` on, into out [B, S, E].
template <class T>
INLINE void after_cell(const T* u, const float* sums, Index R, Index first, const float* floor,
                       const T* c, const T* xz, const Sizes& is, const Weights& weights,
                       float cell_eps, float norm_eps, T* out) {
    const Index S = is.S, K = is.K(), E = is.E();
    std::vector<float> row(K);
    float* hidden = row.data();
    for (Index b = 0; b < is.B; ++b)
        for (Index h = 0; h < is.H; ++h)
            for (Index r = 0; r < R; ++r) {
                const Index n = b * is.H + h, s = first + r;
                const T* u_row = u + (n * R + r) * K;
                const float size = std::max(std::abs(sums[n * R + r]), floor[n * S + s]) + cell_eps;
                const float scale = normalize_row(u_row, 1.0f / size, K, norm_eps, hidden);
                const float *norm = weights.norm + h * K, *skip = weights.skip + h * K;
                const T *c_row = c + (n * S + s) * K, *z = xz + (b * S + s) * 2 * E + E + h * K;
                T* to = out + (b * S + s) * E + h * K;
                VECTORIZED
                for (Index i = 0; i < K; ++i)
                    put(to + i, (hidden[i] * scale * norm[i] + get(c_row[i]) * skip[i]) *
                                    silu(get(z[i])));
            }
}

}  // namespace

extern "C" Index native_version() { return VERSION; }

#define ENTRY_POINTS(T, NAME)                                                                      \
    extern "C" EACH_CPU void before_cell_##NAME(                                                   \
        const Sizes* is, const Weights* weights, const T* xz, Index sigmoid_input, T* c, T* k,     \
        T* v, float* gates, double* a, double* top, float* floor) {                                \
        before_cell(xz, *is, sigmoid_input != 0, *weights, c, k, v, gates, a, top, floor);         \
    }                                                                                              \
    extern "C" EACH_CPU void weigh_##NAME(const Sizes* is, T* scores, Index R, Index C,            \
                                          Index first, const double* a, const double* top,         \
                                          float* sums) {                                           \
        weigh(scores, is->B * is->H, R, C, first, is->S, a, top, sums);                            \
    }                                                                                              \
    extern "C" EACH_CPU void after_cell_##NAME(                                                    \
        const Sizes* is, const Weights* weights, const T* u, const float* sums, Index R,           \
        Index first, const float* floor, const T* c, const T* xz, float cell_eps, float norm_eps,  \
        T* out) {                                                                                  \
        after_cell(u, sums, R, first, floor, c, xz, *is, *weights, cell_eps, norm_eps, out);       \
    }

ENTRY_POINTS(float, float32)
ENTRY_POINTS(BFloat16, bfloat16)

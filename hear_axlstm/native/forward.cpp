// What an mLSTM block computes between its matrix products, in as few passes over memory as can be.
//
// Optional: setup.py builds it where there is a compiler, `library.py` calls it. Numbers are float
// inside; large tensors are float or bfloat16. The compiler makes the loops into vector instructions.
//
// Shapes: B windows, S tokens, H heads, N = B H, J 4 x 4 blocks of the maps in a head, K = 4 J head
// size, E = H K. Channels of x lie by place in their 4 x 4 block, [4, H, J]; those of a head, [4, J].

#include "numbers.h"

namespace {

constexpr Index VERSION = 2;  // of what this folder exports, to be raised with every change of it
constexpr Index ROWS = 4;     // tokens worked on at once, while the weights for them are in the cache

// out [rows, G] += in [rows, E] times weight [G, E] transposed, for up to ROWS rows.
INLINE void add_products(const float* in, Index rows, const float* weight, Index E, Index G,
                         float* out) {
    constexpr Index LANES = 16;
    const Index whole = E - E % LANES;
    for (Index g = 0; g < G; g += 2) {  // 2 x ROWS sums that don't wait for each other
        float sums[2][ROWS][LANES] = {};
        const float *w[2] = {weight + g * E, weight + (g + 1) * E};
        for (Index e = 0; e < whole; e += LANES)
            for (Index r = 0; r < ROWS; ++r)
                for (Index i = 0; i < 2; ++i) {
                    VECTORIZED
                    for (Index lane = 0; lane < LANES; ++lane)
                        sums[i][r][lane] += in[r * E + e + lane] * w[i][e + lane];
                }
        for (Index r = 0; r < rows; ++r)
            for (Index i = 0; i < 2; ++i) {
                float sum = 0.0f;
                for (Index e = whole; e < E; ++e) sum += in[r * E + e] * w[i][e];
                for (Index lane = 0; lane < LANES; ++lane) sum += sums[i][r][lane];
                out[r * G + g + i] += sum;
            }
    }
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
            const double least = std::exp(std::min(-(total + highest), LARGEST_EXPONENT));
            floor[h * S + s] = float(std::sqrt(double(is.K())) * least);
        }
    }
}

// Convolution, maps and gates of all rows. c, which is also the query, k and v are [N, S, K], gates
// [B, S, 2 H] pre-activations.
template <class T>
INLINE void before_cell(const T* xz, const Sizes& is, bool sigmoid_input, const Weights& weights,
                        T* c, T* k, T* v, float* gates, double* a, double* top, float* floor) {
    const Index E = is.E(), G = 2 * is.H;
    std::vector<float> buffers(3 * ROWS * E);
    float *x_rows = buffers.data(), *c_rows = x_rows + ROWS * E, *mapped = c_rows + ROWS * E;
    for (Index b = 0; b < is.B; ++b) {
        for (Index first = 0; first < is.S; first += ROWS) {
            const Index rows = std::min(ROWS, is.S - first), token = b * is.S + first;
            const Index at = b * is.H * is.S * is.K() + first * is.K();
            for (Index r = 0; r < rows; ++r) {
                const T* x = xz + (token + r) * 2 * E;
                float *x_row = x_rows + r * E, *c_row = c_rows + r * E;
                convolve_row(x, first + r, E, weights, c_row);
                VECTORIZED
                for (Index e = 0; e < E; ++e) {
                    c_row[e] = silu(c_row[e]);
                    x_row[e] = get(x[e]);
                }
                to_heads(c_row, is, c + at + r * is.K());
            }
            for (Index r = 0; r < rows; ++r) {
                map_row(c_rows + r * E, weights.key, is.HJ(), mapped);
                to_heads(mapped, is, k + at + r * is.K());
            }
            for (Index r = 0; r < rows; ++r) {
                map_row(x_rows + r * E, weights.value, is.HJ(), mapped);
                to_heads(mapped, is, v + at + r * is.K());
            }
            float* gate_rows = gates + token * G;
            for (Index r = 0; r < rows; ++r)
                std::copy(weights.gate_bias, weights.gate_bias + G, gate_rows + r * G);
            add_products(c_rows, rows, weights.gates_c, E, G, gate_rows);
            add_products(x_rows, rows, weights.gates_x, E, G, gate_rows);
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

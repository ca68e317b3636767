// What an mLSTM block computes between its matrix products, in as few passes over memory as can be.
//
// Optional: setup.py builds it where there is a compiler, `__init__.py` calls it, and
// `hear_axlstm/inference.py` holds the same in PyTorch. Numbers are float inside; large tensors are
// float or bfloat16. The compiler makes the loops into vector instructions.
//
// Shapes: B windows, S tokens, H heads, J 4 x 4 blocks of the maps in a head, K = 4 J head size,
// E = H K. Channels of x lie by place in their 4 x 4 block, [4, H, J]; those of a head as [4, J].

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define EACH_CPU __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define EACH_CPU
#endif
#define INLINE static inline __attribute__((always_inline))
#define VECTORIZED _Pragma("omp simd")

namespace {

using Index = std::int64_t;
constexpr Index VERSION = 1;  // of the functions at the end, to be raised with every change of them
constexpr Index PLACES = 4;  // channels of one block of a map
constexpr Index WIDTH = 4;   // tokens that the convolution sees

struct BFloat16 {
    std::uint16_t bits;
};

INLINE float get(float x) { return x; }

INLINE float get(BFloat16 x) {
    const std::uint32_t bits = std::uint32_t(x.bits) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

INLINE void put(float* to, float x) { *to = x; }

INLINE void put(BFloat16* to, float x) {  // rounds to nearest, ties to even
    std::uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    to->bits = std::uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// exp to 2e-7 relative; what would underflow is 0 up to 1e-38.
INLINE float exp_of(float x) {
    x = std::min(std::max(x, -87.0f), 88.0f);
    const float shifted = x * 1.44269504f + 12582912.0f;  // adding 1.5 x 2^23 rounds to an integer
    const float n = shifted - 12582912.0f;
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // x - n log 2, |r| < 0.35
    float series = 1.0f / 5040.0f;
    series = series * r + 1.0f / 720.0f;
    series = series * r + 1.0f / 120.0f;
    series = series * r + 1.0f / 24.0f;
    series = series * r + 1.0f / 6.0f;
    series = series * r + 0.5f;
    series = series * r + 1.0f;
    series = series * r + 1.0f;
    const std::int32_t exponent = (std::int32_t(n) + 127) << 23;
    float power;
    std::memcpy(&power, &exponent, sizeof power);
    return series * power;
}

INLINE float silu(float x) { return x / (1.0f + exp_of(-x)); }

INLINE double log_sigmoid(double x) {
    return std::min(x, 0.0) - std::log1p(std::exp(-std::abs(x)));
}

INLINE float dot(const float* a, const float* b, Index n) {
    constexpr Index LANES = 16;
    float sums[LANES] = {}, sum = 0.0f;
    const Index whole = n - n % LANES;
    for (Index i = 0; i < whole; i += LANES) {
        VECTORIZED
        for (Index lane = 0; lane < LANES; ++lane) sums[lane] += a[i + lane] * b[i + lane];
    }
    for (Index i = whole; i < n; ++i) sum += a[i] * b[i];
    for (Index lane = 0; lane < LANES; ++lane) sum += sums[lane];
    return sum;
}

// One row of a block-diagonal map, from channels by place into those of every head.
template <class T>
INLINE void map_row(const float* in, const float* weight, Index S, Index H, Index J, T* out) {
    const Index HJ = H * J, K = PLACES * J;
    for (Index h = 0; h < H; ++h)
        for (Index p = 0; p < PLACES; ++p) {
            const float *in_h = in + h * J, *w = weight + p * HJ + h * J;
            T* out_h = out + h * S * K + p * J;
            const Index in_step = HJ, w_step = PLACES * HJ;
            VECTORIZED
            for (Index j = 0; j < J; ++j)
                put(out_h + j, in_h[j] * w[j] + in_h[in_step + j] * w[w_step + j] +
                                   in_h[2 * in_step + j] * w[2 * w_step + j] +
                                   in_h[3 * in_step + j] * w[3 * w_step + j]);
        }
}

template <class T>
INLINE void copy_row(const float* in, Index S, Index H, Index J, T* out) {
    for (Index h = 0; h < H; ++h)
        for (Index p = 0; p < PLACES; ++p) {
            const float* from = in + (p * H + h) * J;
            T* to = out + h * S * PLACES * J + p * J;
            VECTORIZED
            for (Index j = 0; j < J; ++j) put(to + j, from[j]);
        }
}

// SiLU of the causal convolution of row s; rows before the first one are zero.
template <class T>
INLINE void convolve_row(const T* xz, Index s, Index E, const float* weight, const float* bias,
                         float* x, float* c) {
    for (Index e = 0; e < E; ++e) x[e] = get(xz[e]);
    const float* now = weight + (WIDTH - 1) * E;
    VECTORIZED
    for (Index e = 0; e < E; ++e) c[e] = bias[e] + now[e] * x[e];
    for (Index delay = 1; delay < WIDTH && delay <= s; ++delay) {
        const T* before = xz - delay * 2 * E;
        const float* w = now - delay * E;
        VECTORIZED
        for (Index e = 0; e < E; ++e) c[e] += w[e] * get(before[e]);
    }
    VECTORIZED
    for (Index e = 0; e < E; ++e) c[e] = silu(c[e]);
}

// a_s = log i_s - F_s, its running maximum M_s, and sqrt(K) exp(-m_s) with m_s = F_s + M_s.
INLINE void scan(const float* gates, Index S, Index H, Index K, bool sigmoid, double* a, double* top,
                 float* floor) {
    for (Index h = 0; h < H; ++h) {
        double total = 0.0, highest = -INFINITY;
        for (Index s = 0; s < S; ++s) {
            const double input = gates[s * 2 * H + h];
            total += log_sigmoid(gates[s * 2 * H + H + h]);
            a[h * S + s] = (sigmoid ? log_sigmoid(input) : input) - total;
            top[h * S + s] = highest = std::max(highest, a[h * S + s]);
            floor[h * S + s] = float(std::sqrt(double(K)) * std::exp(-(total + highest)));
        }
    }
}

template <class T>
INLINE void before_cell(const T* xz, Index B, Index S, Index H, Index J, bool sigmoid,
                        const float* const* weights, T* c, T* k, T* v, double* a, double* top,
                        float* floor) {
    const float *conv = weights[0], *conv_bias = weights[1], *key = weights[2], *value = weights[3],
                *gates_c = weights[4], *gates_x = weights[5], *gate_bias = weights[6];
    const Index K = PLACES * J, E = H * K;
    std::vector<float> x_row(E), c_row(E), gates(S * 2 * H);
    for (Index b = 0; b < B; ++b) {
        for (Index s = 0; s < S; ++s) {
            convolve_row(xz + (b * S + s) * 2 * E, s, E, conv, conv_bias, x_row.data(),
                         c_row.data());
            const Index row = b * H * S * K + s * K;
            copy_row(c_row.data(), S, H, J, c + row);
            map_row(c_row.data(), key, S, H, J, k + row);
            map_row(x_row.data(), value, S, H, J, v + row);
            for (Index g = 0; g < 2 * H; ++g)
                gates[s * 2 * H + g] = gate_bias[g] + dot(c_row.data(), gates_c + g * E, E) +
                                       dot(x_row.data(), gates_x + g * E, E);
        }
        const Index heads = b * H * S;
        scan(gates.data(), S, H, K, sigmoid, a + heads, top + heads, floor + heads);
    }
}

// scores [N, R, C] of rows `first` .. `first` + R times exp(a_s - M_t) for s <= t, else 0; sums.
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

// Normalizes, norms every head, adds the skip of c and gates by SiLU(z), for R rows from `first`.
template <class T>
INLINE void after_cell(const T* u, const float* sums, const float* floor, const T* c, const T* xz,
                       const float* norm, const float* skip, Index B, Index S, Index H, Index J,
                       Index R, Index first, float cell_eps, float norm_eps, T* out) {
    const Index K = PLACES * J, E = H * K;
    std::vector<float> h_row(K);
    float* hidden = h_row.data();
    for (Index b = 0; b < B; ++b)
        for (Index h = 0; h < H; ++h)
            for (Index r = 0; r < R; ++r) {
                const Index n = b * H + h, s = first + r;
                const T* u_row = u + (n * R + r) * K;
                const float size = std::max(std::abs(sums[n * R + r]), floor[n * S + s]) + cell_eps;
                const float factor = 1.0f / size;
                float mean = 0.0f, square = 0.0f;
#pragma omp simd reduction(+ : mean)
                for (Index i = 0; i < K; ++i) mean += hidden[i] = get(u_row[i]) * factor;
                mean /= float(K);
#pragma omp simd reduction(+ : square)
                for (Index i = 0; i < K; ++i) {
                    hidden[i] -= mean;
                    square += hidden[i] * hidden[i];
                }
                const float scale = 1.0f / std::sqrt(square / float(K) + norm_eps);
                const float *norm_h = norm + h * K, *skip_h = skip + h * K;
                const T *c_row = c + (n * S + s) * K, *z = xz + (b * S + s) * 2 * E + E + h * K;
                T* to = out + (b * S + s) * E + h * K;
                VECTORIZED
                for (Index i = 0; i < K; ++i)
                    put(to + i, (hidden[i] * scale * norm_h[i] + get(c_row[i]) * skip_h[i]) *
                                    silu(get(z[i])));
            }
}

}  // namespace

#define ENTRY_POINTS(T, NAME)                                                                       \
    extern "C" EACH_CPU void before_cell_##NAME(                                                    \
        const T* xz, Index B, Index S, Index H, Index J, Index sigmoid,                             \
        const float* const* weights, T* c, T* k, T* v, double* a, double* top, float* floor) {      \
        before_cell(xz, B, S, H, J, sigmoid != 0, weights, c, k, v, a, top, floor);                 \
    }                                                                                               \
    extern "C" EACH_CPU void weigh_##NAME(T* scores, Index N, Index R, Index C, Index first,        \
                                          Index S, const double* a, const double* top,              \
                                          float* sums) {                                            \
        weigh(scores, N, R, C, first, S, a, top, sums);                                             \
    }                                                                                               \
    extern "C" EACH_CPU void after_cell_##NAME(                                                     \
        const T* u, const float* sums, const float* floor, const T* c, const T* xz,                 \
        const float* norm, const float* skip, Index B, Index S, Index H, Index J, Index R,          \
        Index first, float cell_eps, float norm_eps, T* out) {                                      \
        after_cell(u, sums, floor, c, xz, norm, skip, B, S, H, J, R, first, cell_eps, norm_eps,     \
                   out);                                                                            \
    }

extern "C" Index block_version() { return VERSION; }

ENTRY_POINTS(float, float32)
ENTRY_POINTS(BFloat16, bfloat16)

// Number types, structs of sizes and weights, and row operations shared by the C++ kernels.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(EACH_CPU)  // set by the compiler's options, e.g. empty for the sanitizers
#elif defined(__x86_64__) && defined(__GNUC__)
#define EACH_CPU __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define EACH_CPU
#endif
#ifdef __GNUC__
#pragma GCC diagnostic ignored "-Wpsabi"  // vectors are only passed to inlined functions
#endif
#define ALWAYS __attribute__((always_inline))
#define INLINE static inline ALWAYS
#define VECTORIZED _Pragma("omp simd")

using Index = std::int64_t;
constexpr Index PLACES = 4;  // channels of one block of a map
constexpr Index WIDTH = 4;   // tokens in the convolution's kernel

// B windows, S tokens, H heads, J blocks of a head in the maps.
struct Sizes {
    Index B, S, H, J;
    Index K() const { return PLACES * J; }
    Index E() const { return H * K(); }
    Index HJ() const { return H * J; }
};

// Fused weights, all float, as in contract.MixerWeights.
struct Weights {
    const float *conv, *conv_bias;   // [4, E], [E]
    const float *key, *value;        // [in 4, out 4, H J]
    const float *gates_c, *gates_x;  // [2 H, E], input gates first
    const float* gate_bias;          // [2 H]
    const float *norm, *skip;        // [H K]
};

struct BFloat16 {
    std::uint16_t bits;
};

// Allocator aligned to cache lines, so that no vector crosses one.
template <class T>
struct InLines {
    using value_type = T;
    static constexpr std::align_val_t LINE{64};
    T* allocate(std::size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), LINE)); }
    void deallocate(T* memory, std::size_t) { ::operator delete(memory, LINE); }
    bool operator==(const InLines&) const { return true; }
    bool operator!=(const InLines&) const { return false; }
};

template <class T>
using Buffer = std::vector<T, InLines<T>>;

template <class V, class T>
INLINE V load(const T* from) {
    V vector;
    std::memcpy(&vector, from, sizeof vector);
    return vector;
}

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

// exp with a relative error of 2e-7, of x clamped to +-87; NaN for NaN and infinities.
INLINE float exp_of(float given) {
    // Clamped as an integer, which vectorizes better; positive floats are ordered like integers.
    std::uint32_t bits;
    std::memcpy(&bits, &given, sizeof bits);
    bits = (bits & 0x80000000u) | std::min(bits & 0x7fffffffu, 0x42ae0000u);
    float x;
    std::memcpy(&x, &bits, sizeof x);
    x += given - given;
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

INLINE float sigmoid(float x) { return 1.0f / (1.0f + exp_of(-x)); }

INLINE float silu(float x) { return x * sigmoid(x); }

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

// Copies a row whose channels are ordered by place, [4, H, J], to or from H heads, each a row
// [4, J] of a matrix [S, K].
template <class T>
INLINE void to_heads(const float* row, const Sizes& sizes, T* heads) {
    for (Index h = 0; h < sizes.H; ++h)
        for (Index p = 0; p < PLACES; ++p) {
            const float* from = row + (p * sizes.H + h) * sizes.J;
            T* to = heads + h * sizes.S * sizes.K() + p * sizes.J;
            VECTORIZED
            for (Index j = 0; j < sizes.J; ++j) put(to + j, from[j]);
        }
}

template <class T>
INLINE void from_heads(const T* heads, const Sizes& sizes, float* row) {
    for (Index h = 0; h < sizes.H; ++h)
        for (Index p = 0; p < PLACES; ++p) {
            const T* from = heads + h * sizes.S * sizes.K() + p * sizes.J;
            float* to = row + (p * sizes.H + h) * sizes.J;
            VECTORIZED
            for (Index j = 0; j < sizes.J; ++j) to[j] = get(from[j]);
        }
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

// Number types, and the structs of sizes and weights that the C++ kernels share.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <new>
#include <type_traits>
#include <utility>
#include <vector>

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

// Gradients of the weights, shaped like them.
struct Gradients {
    float *conv, *conv_bias, *key, *value, *gates_c, *gates_x, *gate_bias, *norm, *skip;
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
    std::uint32_t exponent;  // the last bits of `shifted` are those of n
    std::memcpy(&exponent, &shifted, sizeof exponent);
    exponent = (exponent + 127) << 23;
    float power;
    std::memcpy(&power, &exponent, sizeof power);
    return series * power;
}

INLINE float sigmoid(float x) { return 1.0f / (1.0f + exp_of(-x)); }

INLINE float silu(float x) { return x * sigmoid(x); }

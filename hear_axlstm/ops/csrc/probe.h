// What a probe consists of, and what learning it needs: see probe.cpp.

#pragma once

#include "products.h"

#ifdef HAS_PRODUCTS
#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4,avx512bf16")

struct ProbeSizes {
    Index N, D, H, C;
};

// A parameter and Adam's moments.
struct Learned {
    float *value, *first, *second;
    Learned at(Index i) const { return {value + i, first + i, second + i}; }
};

struct Probe {
    Learned weight;          // [D, W] by blocks
    Learned scale, shift;    // [H]
    Learned out, bias;       // [C, H], [C]
    float *mean, *variance;  // running, [H]
};

// What learning keeps of a batch.
struct Activations {
    float* z;               // [N, W] by blocks
    float *mean, *inverse;  // and 1 / sqrt(variance + eps), [H]
};

// A unit is kept where its random number is not below the threshold.
struct Dropout {
    Word* state;            // of 16 generators, [4, 16]
    std::int16_t* numbers;  // [N, W] by blocks
    std::int16_t threshold;
    float factor;
};

struct AdamStep {
    float size, root;  // lr / (1 - beta1^t), 1 / sqrt(1 - beta2^t)
};

constexpr float BETA1 = 0.9f, BETA2 = 0.999f, ADAM_EPS = 1e-8f;

INLINE void learn(Learned parameter, const float* gradient, Index size, AdamStep step) {
    auto [value, first, second] = parameter;
    VECTORIZED
    for (Index i = 0; i < size; ++i) {
        first[i] += (1 - BETA1) * (gradient[i] - first[i]);
        second[i] = BETA2 * second[i] + (1 - BETA2) * gradient[i] * gradient[i];
        value[i] -= step.size * first[i] / (std::sqrt(second[i]) * step.root + ADAM_EPS);
    }
}

INLINE void prefetch(Learned parameter, Index size) {
    for (const float* numbers : {parameter.value, parameter.first, parameter.second})
        for (Index i = 0; i < size; i += GROUP) __builtin_prefetch(numbers + i, 1);
}

// Random numbers by 16 generators xoshiro128++ (Blackman and Vigna, 2021) side by side.
INLINE void draw(Word* state, std::int16_t* to, Index count) {
    __m512i s[4];
    for (Index i = 0; i < 4; ++i) s[i] = _mm512_loadu_si512(state + i * GROUP);
    for (; count > 0; count -= 2 * GROUP, to += 2 * GROUP) {
        const __m512i sum = _mm512_rol_epi32(_mm512_add_epi32(s[0], s[3]), 7);
        const __m512i drawn = _mm512_add_epi32(sum, s[0]), shifted = _mm512_slli_epi32(s[1], 9);
        s[2] = _mm512_xor_si512(s[2], s[0]);
        s[3] = _mm512_xor_si512(s[3], s[1]);
        s[1] = _mm512_xor_si512(s[1], s[2]);
        s[0] = _mm512_xor_si512(s[0], s[3]);
        s[2] = _mm512_xor_si512(s[2], shifted);
        s[3] = _mm512_rol_epi32(s[3], 11);
        std::memcpy(to, &drawn, sizeof *to * std::min(count, 2 * GROUP));
    }
    for (Index i = 0; i < 4; ++i) _mm512_storeu_si512(state + i * GROUP, s[i]);
}

INLINE Index whole(Index size, Index unit) { return (size + unit - 1) / unit * unit; }

// The rows [S, W] of a matrix as the right factor; `row` numbers lie between two of them.
template <class T>
INLINE Laid lay_rows(const float* rows, Index S, Index row, Index W, Word* words) {
    if (IN_WORD<T> == 1) return {reinterpret_cast<const Word*>(rows), row, GROUP};
    for (Index s = 0; s < S; s += 2) {
        const float *even = rows + s * row, *odd = s + 1 < S ? even + row : even;
        Word* to = words + s / 2 * W;
        VECTORIZED
        for (Index i = 0; i < W; ++i) {
            BFloat16 low, high;
            put(&low, even[i]), put(&high, odd[i]);
            to[i] = Word(low.bits) | Word(high.bits) << 16;
        }
    }
    return {words, W, GROUP};
}

// out [rows, columns] = a [rows, K] times a laid matrix, plus what is there if ADDED.
template <bool ADDED = false, class T>
INLINE void multiply_rows(const T* a, Index rows, Index K, Laid b, float* out, Index columns) {
    in_rows<ROWS>(rows, [&](auto R, Index row) {
        multiply<R, ADDED>(a + row * K, K, b, K / IN_WORD<T>, columns / GROUP, out + row * columns,
                           columns);
    });
}

// Calls work(Rows<G>, unit) for blocks of G groups of hidden units. What is not inlined into the
// entry points gets shorter vectors.
template <class Work>
INLINE void in_blocks(Index H, Work work) {
    Index unit = 0;
    for (; unit + AT_ONCE * GROUP <= H; unit += AT_ONCE * GROUP) work(Rows<AT_ONCE>(), unit);
    if (H - unit == 2 * GROUP) work(Rows<2>(), unit);
    if (H - unit == GROUP) work(Rows<1>(), unit);
}

// y = gain z + offset.
template <Index W>
struct Affine {
    float gain[W], offset[W];
    Affine(const Probe& probe, const Activations& of, Index unit) {
        for (Index i = 0; i < W; ++i) {
            gain[i] = probe.scale.value[unit + i] * of.inverse[unit + i];
            offset[i] = probe.shift.value[unit + i] - of.mean[unit + i] * gain[i];
        }
    }
};

#pragma GCC pop_options
#endif

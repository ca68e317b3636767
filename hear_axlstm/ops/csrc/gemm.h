// Matrix products by AVX-512 and its bfloat16 instructions, whose sums stay in registers.
//
// The right factor is stored in words, a float or two bfloat16 that follow each other down a
// column: 16 columns are a group, one word of each of them a step. Rows and columns are those of
// the product unless said otherwise.

#pragma once

#include "numbers.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define HAS_GEMM
#include <immintrin.h>

#ifdef __clang__
#define BEGIN_AVX512_BF16                                                                          \
    _Pragma("clang attribute push(__attribute__((target(\"avx512f,avx512bw,avx512dq,avx512vl,\"    \
            \"avx512cd,avx512bf16,avx2,bmi,bmi2,fma,f16c,lzcnt\"))), apply_to = function)")
#define END_AVX512_BF16 _Pragma("clang attribute pop")
#else
#define BEGIN_AVX512_BF16                                                                          \
    _Pragma("GCC push_options") _Pragma("GCC target(\"arch=x86-64-v4,avx512bf16\")")
#define END_AVX512_BF16 _Pragma("GCC pop_options")
#endif

BEGIN_AVX512_BF16

using Word = std::uint32_t;
constexpr Index GROUP = 16;
constexpr Index ROWS = 8, AT_ONCE = 3;  // rows and groups at once fill the registers

template <class T>
constexpr Index IN_WORD = sizeof(Word) / sizeof(T);

// Steps summed up by themselves: long sums round worse, which the factors in bfloat16 already do.
template <class T>
constexpr Index PIECE = IN_WORD<T> == 1 ? 64 : 1 << 30;

INLINE Index whole_groups(Index columns) { return (columns + GROUP - 1) / GROUP * GROUP; }

INLINE __m512 multiply_add(const float* a, __m512i b, __m512 sum) {
    return _mm512_fmadd_ps(_mm512_set1_ps(*a), _mm512_castsi512_ps(b), sum);
}

INLINE __m512 multiply_add(const BFloat16* a, __m512i b, __m512 sum) {
    int pair;
    std::memcpy(&pair, a, sizeof pair);
    return _mm512_dpbf16_ps(sum, __m512bh(_mm512_set1_epi32(pair)), __m512bh(b));
}

INLINE void put_group(float* to, __m512 sums) { _mm512_storeu_ps(to, sums); }

INLINE void put_group(BFloat16* to, __m512 sums) {
    const __m256i rounded = __m256i(_mm512_cvtneps_pbh(sums));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), rounded);
}

// The right factor; how many words lie between two of its steps, and between two of its groups.
struct Packed {
    const Word* words;
    Index step, group;
};

// R rows of G groups, added to what is there if ADDED.
template <Index R, Index G, bool ADDED, class T, class Out>
INLINE void multiply_tile(const T* a, Index a_row, const Packed& b, Index steps, Out* out,
                          Index out_row) {
    __m512 totals[R][G] = {};
    if constexpr (ADDED)
        for (Index r = 0; r < R; ++r)
            for (Index g = 0; g < G; ++g)
                totals[r][g] = _mm512_loadu_ps(out + r * out_row + g * GROUP);
    for (Index first = 0; first < steps; first += PIECE<T>) {
        __m512 sums[R][G] = {};
        for (Index step = first; step < std::min(first + PIECE<T>, steps); ++step) {
            const T* column = a + step * IN_WORD<T>;
            __m512i words[G];
            for (Index g = 0; g < G; ++g)
                words[g] = _mm512_loadu_si512(b.words + step * b.step + g * b.group);
            for (Index r = 0; r < R; ++r)
                for (Index g = 0; g < G; ++g)
                    sums[r][g] = multiply_add(column + r * a_row, words[g], sums[r][g]);
        }
        for (Index r = 0; r < R; ++r)
            for (Index g = 0; g < G; ++g) totals[r][g] = _mm512_add_ps(totals[r][g], sums[r][g]);
    }
    for (Index r = 0; r < R; ++r)
        for (Index g = 0; g < G; ++g) put_group(out + r * out_row + g * GROUP, totals[r][g]);
}

// R rows of any number of groups.
template <Index R, bool ADDED = false, class T, class Out>
INLINE void multiply(const T* a, Index a_row, Packed b, Index steps, Index groups, Out* out,
                     Index out_row) {
    for (; groups >= AT_ONCE; groups -= AT_ONCE) {
        multiply_tile<R, AT_ONCE, ADDED>(a, a_row, b, steps, out, out_row);
        b.words += AT_ONCE * b.group, out += AT_ONCE * GROUP;
    }
    if (groups == 2) multiply_tile<R, 2, ADDED>(a, a_row, b, steps, out, out_row);
    if (groups == 1) multiply_tile<R, 1, ADDED>(a, a_row, b, steps, out, out_row);
}

// 16 rows of 16 words; each pass moves one bit of the row's number into the column's.
INLINE void transpose(__m512i (&rows)[GROUP]) {
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
    for (Index pass = 0; pass < 4; ++pass) {
        __m512i next[GROUP];
        for (Index i = 0; i < GROUP / 2; ++i) {
            next[2 * i] = _mm512_permutex2var_epi32(rows[i], low, rows[i + GROUP / 2]);
            next[2 * i + 1] = _mm512_permutex2var_epi32(rows[i], high, rows[i + GROUP / 2]);
        }
        for (Index i = 0; i < GROUP; ++i) rows[i] = next[i];
    }
}

// The transpose of a matrix [columns, K] as the right factor, [groups, steps, 16].
template <class T>
INLINE void pack_transposed(const T* matrix, Index columns, Index K, Word* packed) {
    const Index steps = K / IN_WORD<T>;
    const Word* words = reinterpret_cast<const Word*>(matrix);
    for (Index column = 0; column < columns; column += GROUP)
        for (Index step = 0; step < steps; step += GROUP) {
            const Index some = std::min(GROUP, steps - step);
            __m512i rows[GROUP];
            for (Index i = 0; i < GROUP; ++i) {  // columns that are not there repeat the last one
                const Word* from = words + std::min(column + i, columns - 1) * steps + step;
                rows[i] = _mm512_maskz_loadu_epi32(__mmask16((1u << some) - 1), from);
            }
            transpose(rows);
            for (Index i = 0; i < some; ++i, packed += GROUP) _mm512_storeu_si512(packed, rows[i]);
        }
}

END_AVX512_BF16
#endif

// Tiles of matrix products: what products.h and weighted_sum.h share for all instruction sets.

#pragma once

#include "numbers.h"

using Word = std::uint32_t;

template <class T>
constexpr Index IN_WORD = sizeof(Word) / sizeof(T);

template <class T>
INLINE Index words_of(Index numbers) {
    return (numbers + IN_WORD<T> - 1) / IN_WORD<T>;
}

// Steps per partial sum: longer sums of floats lose precision; bfloat16 factors lose more anyway.
template <class T>
constexpr Index PIECE = IN_WORD<T> == 1 ? 192 : 1 << 30;

// Steps after which the output of a product returns to the cache; a multiple of PIECE.
template <class T>
constexpr Index SLAB = IN_WORD<T> == 1 ? 2 * PIECE<T> : PIECE<T>;

// The tiles of a product that are computed: all; those with a column at or before the row; those
// with a step at or before the row; those with a step at or after it. The rest is zero or unused.
enum class Shape { WHOLE, COLUMNS_TO_ROW, STEPS_TO_ROW, STEPS_FROM_ROW };

constexpr Index TOKENS = 4;        // tokens at once around the cell, which share reads of weights
constexpr Index QUERY_ROWS = 96;   // query rows at once; even and whole tiles
constexpr Index CACHED = 1 << 18;  // bytes of the left factor that stay in the second cache
constexpr double MODERATE = 40.0;  // exp(MODERATE) times a negligible weight is negligible

// The functions of around_cell.cpp that block.cpp calls, in the version for the processor at hand.
//
// Function pointers, because clang changes the symbol of a function that has `target_clones`.

#pragma once

#include "numbers.h"

template <class T>
struct AroundCell {
    void (*before_cell)(const Sizes*, const Weights*, const T* xz, Index earlier, Index first,
                        Index end, T* c, T* k, T* v, float* gates);
    void (*after_cell)(const Sizes*, const Weights*, const T* u, const float* sums,
                       const float* floor, const T* c, const T* xz, float cell_eps, float norm_eps,
                       Index first, Index end, Index out_row, T* out);
    void (*layer_norm)(const float* tokens, const float* norm, Index rows, Index D, float eps,
                       T* out);
};

// For float and BFloat16.
template <class T>
AroundCell<T> around_cell();

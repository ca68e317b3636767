// The functions of dispatch.cpp that block.cpp calls: single-threaded, for float and BFloat16.

#pragma once

#include "numbers.h"

// See around_cell.h.
template <class T>
void layer_norm(const float* tokens, const float* norm, Index rows, Index D, float eps, T* out);

template <class T>
void before_cell(const T* xz, const Sizes& sizes, const Weights& weights, Index earlier,
                 Index first, Index end, T* c, T* k, T* v, float* gates);

template <class T>
void after_cell(const T* u, const float* sums, const float* floor, const T* c, const T* xz,
                const Sizes& sizes, const Weights& weights, float cell_eps, float norm_eps,
                Index first, Index end, Index out_row, T* out);

// out [rows, columns] = x [rows, K] times a packed matrix.
template <class T>
void project(const T* x, const T* packed, Index rows, Index K, Index columns, T* out);

// As `project`, added to out; rows of x are x_row numbers apart.
template <class T>
void project_onto(const T* x, Index x_row, const T* packed, Index rows, Index K, Index columns,
                  float* out);

// The state of a cell after earlier tokens, of each head; null if there are none.
struct State {
    const double* m;
    float *memory, *normalizer;  // [K, K], [K]
};

// The sums of heads [first, end); a, running_max and n are [N, S], the others [N, S, K].
template <class T>
void cell_sums(const T* q, const T* k, const T* v, const double* a, const double* running_max,
               Index first, Index end, Index S, Index K, const State& state, T* u, float* n);

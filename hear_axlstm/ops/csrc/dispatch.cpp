// The kernels for each instruction set, and the choice among them.
//
// Optional: setup.py compiles them if there is a compiler, and library.py calls them.
//
// Shapes: as in around_cell.h.

#include "dispatch.h"
#include "parallel.h"
#include "tiles.h"

#ifdef __clang__
#define UNROLLED _Pragma("unroll")
#else
#define UNROLLED _Pragma("GCC unroll 8")
#endif

namespace plain {
#ifdef __aarch64__
constexpr Index VECTOR_BYTES = 16, ROWS = 8, AT_ONCE = 3;  // a tile fills the registers
#else
constexpr Index VECTOR_BYTES = 16, ROWS = 4, AT_ONCE = 2;
#endif
#include "products.h"
#include "weighted_sum.h"
#include "rows.h"
#include "around_cell.h"
#include "around_cell_backward.h"
}  // namespace plain

#if defined(__x86_64__) && defined(__GNUC__)
#define HAS_X86
#include <cpuid.h>
#include <immintrin.h>

#define PRAGMA(X) _Pragma(#X)
#ifdef __clang__
#define BEGIN_TARGET(F)                                                                            \
    PRAGMA(clang attribute push(__attribute__((target(F))), apply_to = function))
#define END_TARGET PRAGMA(clang attribute pop)
#else
#define BEGIN_TARGET(F) PRAGMA(GCC push_options) PRAGMA(GCC target(F))
#define END_TARGET PRAGMA(GCC pop_options)
#endif

BEGIN_TARGET("avx2,fma,f16c,bmi,bmi2,lzcnt")
namespace avx2 {
constexpr Index VECTOR_BYTES = 32, ROWS = 6, AT_ONCE = 2;
#include "products.h"
#include "weighted_sum.h"
#include "rows.h"
#include "around_cell.h"
#include "around_cell_backward.h"
}  // namespace avx2
END_TARGET

BEGIN_TARGET("avx2,fma,f16c,bmi,bmi2,lzcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512cd")
namespace avx512 {
constexpr Index VECTOR_BYTES = 64, ROWS = 8, AT_ONCE = 3;
#include "products.h"
#include "weighted_sum.h"
#include "rows.h"
#include "around_cell.h"
#include "around_cell_backward.h"
}  // namespace avx512
END_TARGET

BEGIN_TARGET("avx2,fma,f16c,bmi,bmi2,lzcnt,avx512f,avx512bw,avx512dq,avx512vl,avx512cd,avx512bf16")
#define HAS_BFLOAT16_PRODUCTS
namespace avx512_bf16 {
constexpr Index VECTOR_BYTES = 64, ROWS = 8, AT_ONCE = 3;
#include "products.h"
#include "weighted_sum.h"
#include "rows.h"
#include "around_cell.h"
#include "around_cell_backward.h"
}  // namespace avx512_bf16
END_TARGET
#endif

namespace {

enum class Isa { PLAIN, AVX2, AVX512, AVX512_BF16 };

#ifndef BEST_ISA  // tests lower it
#define BEST_ISA AVX512_BF16
#endif

Isa best_isa() {
#ifdef HAS_X86
    if (__builtin_cpu_supports("avx512bf16")) return Isa::AVX512_BF16;
    if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        return Isa::AVX512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Isa::AVX2;
#endif
    return Isa::PLAIN;
}

const Isa isa = std::min(best_isa(), Isa::BEST_ISA);

#ifdef HAS_X86
#define BY_ISA(CALL)                                                                               \
    switch (isa) {                                                                                 \
        case Isa::AVX512_BF16: return avx512_bf16::CALL;                                           \
        case Isa::AVX512: return avx512::CALL;                                                     \
        case Isa::AVX2: return avx2::CALL;                                                         \
        case Isa::PLAIN: return plain::CALL;                                                       \
    }
#else
#define BY_ISA(CALL) return plain::CALL;
#endif

Index group() {
    switch (isa) {
        case Isa::PLAIN: return plain::GROUP;
#ifdef HAS_X86
        case Isa::AVX2: return avx2::GROUP;
        default: return avx512::GROUP;
#else
        default: return plain::GROUP;
#endif
    }
}

}  // namespace

// Checked by library.py: the version of all exported functions, and the sizes in weights' shapes.
extern "C" const Index constants[] = {10, WIDTH, PLACES};

// Columns of a packed group.
extern "C" Index gemm_columns() { return group(); }

// Whether products of numbers of this many bytes are at least as fast as torch's: those of bfloat16
// are not with AMX, which has larger tiles.
extern "C" Index gemm_is_fastest(Index bytes) {
#ifdef HAS_X86
    unsigned a, b, c, d = 0;
    __get_cpuid_count(7, 0, &a, &b, &c, &d);
    const bool has_amx = d & (1u << 24);  // clang 14 does not know the feature's name
    return isa != Isa::PLAIN && !(bytes == sizeof(BFloat16) && has_amx);
#else
    return bytes == 0;  // elsewhere, these products have not been measured
#endif
}

template <class T>
void layer_norm(const float* tokens, const float* norm, Index rows, Index D, float eps, T* out) {
    BY_ISA(layer_norm(tokens, norm, rows, D, eps, out))
}

template <class T>
void before_cell(const T* xz, const Sizes& sizes, const Weights& weights, Index earlier,
                 Index first, Index end, T* c, T* k, T* v, float* gates) {
    BY_ISA(before_cell(xz, sizes, weights, earlier, first, end, c, k, v, gates))
}

template <class T>
void after_cell(const T* u, const float* sums, const float* floor, const T* c, const T* xz,
                const Sizes& sizes, const Weights& weights, float cell_eps, float norm_eps,
                Index first, Index end, Index out_row, T* out) {
    BY_ISA(after_cell(u, sums, floor, c, xz, sizes, weights, cell_eps, norm_eps, first, end,
                      out_row, out))
}

template <class T>
void project(const T* x, const T* packed, Index rows, Index K, Index columns, T* out) {
    const Word* words = reinterpret_cast<const Word*>(packed);
    BY_ISA(product<false>(x, K, words, rows, K, columns, 0, columns / group(), out))
}

template <class T>
void project_onto(const T* x, Index x_row, const T* packed, Index rows, Index K, Index columns,
                  float* out) {
    const Word* words = reinterpret_cast<const Word*>(packed);
    BY_ISA(product<true>(x, x_row, words, rows, K, columns, 0, columns / group(), out))
}

template <class T>
void cell_sums(const T* q, const T* k, const T* v, const double* a, const double* running_max,
               Index first, Index end, Index S, Index K, const State& state, T* u, float* n) {
    const Index heads = end - first, s = first * S, at = s * K;
    q += at, k += at, v += at, u += at, a += s, running_max += s, n += s;
    const auto sums = [=] { BY_ISA(weighted_sum(q, k, v, heads, S, K, a, running_max, u, n)) };
    sums();
    if (!state.memory) return;
    float *memory = state.memory + first * K * K, *normalizer = state.normalizer + first * K;
    BY_ISA(
        add_state(q, k, v, heads, S, K, a, running_max, state.m + first, memory, normalizer, u, n))
}

#define ENTRY_POINTS(T, NAME)                                                                      \
    extern "C" Index before_cell_##NAME(const Sizes* sizes, const Weights* weights, const T* xz,   \
                                        T* c, T* k, T* v, float* gates) {                          \
        const Index end = sizes->B * sizes->S;                                                     \
        return guarded([=] { before_cell(xz, *sizes, *weights, 0, 0, end, c, k, v, gates); });     \
    }                                                                                              \
    extern "C" Index after_cell_##NAME(const Sizes* sizes, const Weights* weights, const T* u,     \
                                       const float* sums, const float* floor, const T* c,          \
                                       const T* xz, float cell_eps, float norm_eps, T* out) {      \
        const Index end = sizes->B * sizes->H, E = sizes->E();                                     \
        return guarded([=] {                                                                       \
            after_cell(u, sums, floor, c, xz, *sizes, *weights, cell_eps, norm_eps, 0, end, E,     \
                       out);                                                                       \
        });                                                                                        \
    }                                                                                              \
    extern "C" Index after_cell_backward_##NAME(                                                   \
        const Sizes* sizes, const Weights* weights, const T* u, const float* sums,                 \
        const float* floor, const T* c, const T* xz, float cell_eps, float norm_eps,               \
        const T* d_out, T* d_u, float* d_sums, float* d_floor, float* d_c, T* d_xz,                \
        const Gradients* d) {                                                                      \
        return guarded([=] {                                                                       \
            BY_ISA(after_cell_backward(u, sums, floor, c, xz, *sizes, *weights, cell_eps,          \
                                       norm_eps, d_out, d_u, d_sums, d_floor, d_c, d_xz, *d))      \
        });                                                                                        \
    }                                                                                              \
    extern "C" Index before_cell_backward_##NAME(                                                  \
        const Sizes* sizes, const Weights* weights, const T* xz, const float* d_gates,             \
        const float* d_c, const T* d_q, const T* d_k, const T* d_v, T* d_xz, const Gradients* d) { \
        return guarded([=] {                                                                       \
            BY_ISA(                                                                                \
                before_cell_backward(xz, *sizes, *weights, d_gates, d_c, d_q, d_k, d_v, d_xz, *d)) \
        });                                                                                        \
    }                                                                                              \
    extern "C" Index gemm_##NAME(const T* x, const Word* packed, Index rows, Index K,              \
                                 Index columns, Index threads, T* out) {                           \
        const Index flops = 2 * rows * K * columns;                                                \
        const auto part = [=](Index first, Index end) {                                            \
            BY_ISA(product<false>(x, K, packed, rows, K, columns, first, end, out))                \
        };                                                                                         \
        return guarded([=] { in_parts(columns / group(), flops, threads, part); });                \
    }                                                                                              \
    extern "C" Index weighted_sum_##NAME(const Sizes* sizes, const T* q, const T* k, const T* v,   \
                                         const double* a, const double* running_max,               \
                                         Index threads, T* u, float* n) {                          \
        const Index S = sizes->S, K = sizes->K(), heads = sizes->B * sizes->H;                     \
        const auto part = [=](Index head, Index end) {                                             \
            const Index s = head * S, at = s * K;                                                  \
            BY_ISA(weighted_sum(q + at, k + at, v + at, end - head, S, K, a + s, running_max + s,  \
                                u + at, n + s))                                                    \
        };                                                                                         \
        return guarded([=] { in_parts(heads, 2 * heads * S * S * K, threads, part); });            \
    }                                                                                              \
    extern "C" Index weighted_sum_backward_##NAME(                                                 \
        const Sizes* sizes, const T* q, const T* k, const T* v, const double* a,                   \
        const double* running_max, const T* d_u, const float* d_n, Index threads, T* d_q, T* d_k,  \
        T* d_v, float* d_a, float* d_running_max) {                                                \
        const Index S = sizes->S, K = sizes->K(), heads = sizes->B * sizes->H;                     \
        const auto part = [=](Index head, Index end) {                                             \
            const Index s = head * S, at = s * K;                                                  \
            BY_ISA(weighted_sum_backward(q + at, k + at, v + at, end - head, S, K, a + s,          \
                                         running_max + s, d_u + at, d_n + s, d_q + at, d_k + at,   \
                                         d_v + at, d_a + s, d_running_max + s))                    \
        };                                                                                         \
        return guarded([=] { in_parts(heads, 5 * heads * S * S * K, threads, part); });            \
    }

ENTRY_POINTS(float, float32)
ENTRY_POINTS(BFloat16, bfloat16)

#define INSTANCES(T)                                                                               \
    template void layer_norm(const float*, const float*, Index, Index, float, T*);                 \
    template void before_cell(const T*, const Sizes&, const Weights&, Index, Index, Index, T*, T*, \
                              T*, float*);                                                         \
    template void after_cell(const T*, const float*, const float*, const T*, const T*,             \
                             const Sizes&, const Weights&, float, float, Index, Index, Index, T*); \
    template void project(const T*, const T*, Index, Index, Index, T*);                            \
    template void project_onto(const T*, Index, const T*, Index, Index, Index, float*);            \
    template void cell_sums(const T*, const T*, const T*, const double*, const double*, Index,     \
                            Index, Index, Index, const State&, T*, float*);

INSTANCES(float)
INSTANCES(BFloat16)

// Products of gemm.h: the projections, and the sums inside the cell.
//
// Shapes: as in forward.cpp.

#include "gemm.h"

#ifdef HAS_GEMM

#include <cpuid.h>
#include <system_error>
#include <thread>

BEGIN_AVX512_BF16

namespace {

constexpr double MODERATE = 40.0;  // exp of it times a weight that vanishes still vanishes
constexpr Index WORTH_A_THREAD = 1 << 28;  // FLOPs, about a millisecond

// Calls work(first, end) for parts of the items on up to that many threads, this one among them.
template <class Work>
INLINE void in_parts(Index items, Index flops, Index threads, Work work) {
    threads = std::max(Index(1), std::min({items, threads, flops / WORTH_A_THREAD}));
    std::vector<std::thread> others;
    for (Index i = 1; i < threads; ++i) {
        const Index first = items * i / threads, end = items * (i + 1) / threads;
        try {
            others.emplace_back(work, first, end);
        } catch (const std::system_error&) {  // the system gives no more threads
            work(first, end);
        }
    }
    work(Index(0), items / threads);
    for (std::thread& other : others) other.join();
}

// out [rows, columns] = x [rows, K] times a packed matrix, for the groups of columns from `group` on.
template <class T>
INLINE void gemm(const T* x, const Word* packed, Index rows, Index K, Index columns, Index group,
                    Index end, T* out) {
    const Index steps = K / IN_WORD<T>;
    for (; group < end; group += AT_ONCE) {
        const Packed b{packed + group * steps * GROUP, GROUP, steps * GROUP};
        T* to = out + group * GROUP;
        in_rows<ROWS>(rows, [&](auto R, Index row) {
            multiply<R>(x + row * K, K, b, steps, std::min(AT_ONCE, end - group),
                        to + row * columns, columns);
        });
    }
}

// v [S, K] as the right factor, [steps, K].
INLINE const Word* pack(const float* v, Index, Index, Word*) {
    return reinterpret_cast<const Word*>(v);
}

INLINE const Word* pack(const BFloat16* v, Index S, Index K, Word* packed) {
    for (Index s = 0; s < S; s += 2) {
        const BFloat16 *row = v + s * K, *next = s + 1 < S ? row + K : row;
        Word* to = packed + s / 2 * K;
        VECTORIZED
        for (Index i = 0; i < K; ++i) to[i] = Word(row[i].bits) | Word(next[i].bits) << 16;
    }
    return packed;
}

// decay_s = exp(a_s - reference), for whole groups.
INLINE void decay_from(const double* a, double reference, Index columns, float* decay) {
    VECTORIZED
    for (Index s = 0; s < columns; ++s) decay[s] = exp_of(float(a[s] - reference));
}

// weighted_s = scores_s decay_s factor for s <= t, else 0, for whole groups; gives the sum.
template <class T>
INLINE float weigh(const float* scores, const float* decay, float factor, Index t, Index columns,
                   T* weighted) {
    __m512 sum = _mm512_setzero_ps();
    for (Index s = 0; s < columns; s += GROUP) {
        const __mmask16 seen = __mmask16((1u << std::clamp(t + 1 - s, Index(0), GROUP)) - 1);
        const __m512 weights = _mm512_mul_ps(_mm512_loadu_ps(decay + s), _mm512_set1_ps(factor));
        const __m512 group = _mm512_maskz_mul_ps(seen, _mm512_loadu_ps(scores + s), weights);
        sum = _mm512_add_ps(sum, group);
        put_group(weighted + s, group);
    }
    float lanes[GROUP], total = 0.0f;  // GCC 12 warns of _mm512_reduce_add_ps
    _mm512_storeu_ps(lanes, sum);
    for (float lane : lanes) total += lane;
    return total;
}

// u_t = sum_s w_ts v_s and n_t = sum_s w_ts with w_ts = c_t . k_s exp(a_s - M_t) for s <= t, of some
// heads; few queries t at a time, so that their scores never leave the cache.
template <class T>
INLINE void cell_sums(const T* c, const T* k, const T* v, Index heads, Index S, Index K,
                   const double* a, const double* top, T* u, float* n) {
    const Index steps = K / IN_WORD<T>, columns = whole_groups(S);
    Buffer<Word> keys(columns * steps), values((S + 1) / 2 * K);
    Buffer<float> scores(ROWS * columns), decay(columns);
    Buffer<double> padded(columns);  // a
    Buffer<T> weighted(ROWS * columns);
    for (; heads > 0; --heads) {
        std::copy(a, a + S, padded.begin());
        pack_transposed(k, S, K, keys.data());
        const Packed packed_keys{keys.data(), GROUP, steps * GROUP};
        const Packed packed_values{pack(v, S, K, values.data()), K, GROUP};
        in_rows<ROWS>(S, [&](auto R, Index first) {
            const Index end = first + R, seen = whole_groups(end);
            multiply<R>(c + first * K, K, packed_keys, steps, seen / GROUP, scores.data(), columns);
            double reference = INFINITY;
            for (Index r = R - 1; r >= 0; --r) {
                const Index t = first + r;
                if (reference - top[t] > MODERATE) {
                    reference = top[t];
                    decay_from(padded.data(), reference, seen, decay.data());
                }
                n[t] = weigh(scores.data() + r * columns, decay.data(),
                             exp_of(float(reference - top[t])), t, seen,
                             weighted.data() + r * columns);
            }
            const Index value_steps = (end + IN_WORD<T> - 1) / IN_WORD<T>;
            multiply<R>(weighted.data(), columns, packed_values, value_steps, K / GROUP,
                        u + first * K, K);
        });
        c += S * K, k += S * K, v += S * K, u += S * K;
        a += S, top += S, n += S;
    }
}

}  // namespace

// Columns of a packed group; 0 where the processor lacks the instructions, or has others for larger
// tiles, which oneDNN uses.
extern "C" Index gemm_columns() {
    unsigned a, b, c, d = 0;
    __get_cpuid_count(7, 0, &a, &b, &c, &d);
    const bool has_amx = d & (1u << 24);  // clang 14 does not know the feature's name
    const bool fits = __builtin_cpu_supports("avx512bf16") && !has_amx;
    return fits ? GROUP : 0;
}

#define ENTRY_POINTS(T, NAME)                                                                      \
    extern "C" void gemm_##NAME(const T* x, const Word* packed, Index rows, Index K,              \
                                   Index columns, Index threads, T* out) {                         \
        const Index flops = 2 * rows * K * columns;                                                \
        in_parts(columns / GROUP, flops, threads, [=](Index group, Index end) {                    \
            gemm(x, packed, rows, K, columns, group, end, out);                                   \
        });                                                                                        \
    }                                                                                              \
    extern "C" void cell_sums_##NAME(const Sizes* is, const T* c, const T* k, const T* v,             \
                                  const double* a, const double* top, Index threads, T* u,         \
                                  float* n) {                                                      \
        const Index S = is->S, K = is->K(), heads = is->B * is->H;                                 \
        in_parts(heads, 2 * heads * S * S * K, threads, [=](Index head, Index end) {               \
            const Index s = head * S, at = s * K;                                                  \
            cell_sums(c + at, k + at, v + at, end - head, S, K, a + s, top + s, u + at, n + s);       \
        });                                                                                        \
    }

ENTRY_POINTS(float, float32)
ENTRY_POINTS(BFloat16, bfloat16)

END_AVX512_BF16
#else
extern "C" Index gemm_columns() { return 0; }
#endif

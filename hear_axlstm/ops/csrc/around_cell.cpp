// The operations of an mLSTM block between its matrix products, in few passes over memory.
//
// Optional: setup.py compiles them if there is a compiler, and library.py calls them. Gate
// activations are computed elsewhere: the functions here return pre-activations and take the
// quantities derived from them. Arithmetic is in float; large tensors are float or bfloat16. The
// compiler vectorizes the loops.
//
// Shapes: B windows, S tokens, H heads, N = B H, J 4 x 4 blocks of the maps in a head, K = 4 J head
// size, E = H K. Channels of x are ordered by their place in the 4 x 4 block, [4, H, J]; those of a
// head, [4, J].

#include "around_cell.h"
#include "rows.h"

namespace {

constexpr Index ROWS = 4;  // tokens at once, so that weights are read once for all of them

// out [R, G] = c [R, E] times gates_c [G, E] transposed, plus the same of x, plus the bias.
template <Index R>
INLINE void gate_rows(const float* c, const float* x, const Weights& weights, Index E, Index G,
                      float* out) {
    constexpr Index LANES = 8;
    const Index whole = E - E % LANES;
    for (Index g = 0; g < G; g += 2) {  // 2 R independent sums
        float sums[2][R][LANES] = {};
        const float *inputs[] = {c, x}, *matrices[] = {weights.gates_c, weights.gates_x};
        for (Index side = 0; side < 2; ++side) {
            const float *in = inputs[side], *weight = matrices[side];
            const float* w[2] = {weight + g * E, weight + (g + 1) * E};
            for (Index e = 0; e < whole; e += LANES)
                for (Index r = 0; r < R; ++r)
                    for (Index i = 0; i < 2; ++i) {
                        VECTORIZED
                        for (Index lane = 0; lane < LANES; ++lane)
                            sums[i][r][lane] += in[r * E + e + lane] * w[i][e + lane];
                    }
            for (Index e = whole; e < E; ++e)
                for (Index r = 0; r < R; ++r)
                    for (Index i = 0; i < 2; ++i) sums[i][r][e - whole] += in[r * E + e] * w[i][e];
        }
        for (Index r = 0; r < R; ++r)
            for (Index i = 0; i < 2; ++i) {
                float* lanes = sums[i][r];
                for (Index half = LANES / 2; half > 0; half /= 2) {
                    VECTORIZED
                    for (Index lane = 0; lane < half; ++lane) lanes[lane] += lanes[half + lane];
                }
                out[r * G + g + i] = lanes[0] + weights.gate_bias[g + i];
            }
    }
}

// A block-diagonal map of rows [R, E], weights [in 4, out 4, H J], to matrices [S, K] of H heads.
template <Index R, class T>
INLINE void map_rows(const float* in, const float* weight, const Sizes& sizes, T* heads) {
    const Index E = sizes.E(), HJ = sizes.HJ(), step = PLACES * HJ;
    for (Index p = 0; p < PLACES; ++p)
        for (Index h = 0; h < sizes.H; ++h) {
            const float *w = weight + p * HJ + h * sizes.J, *from = in + h * sizes.J;
            T* to = heads + h * sizes.S * sizes.K() + p * sizes.J;
            VECTORIZED
            for (Index j = 0; j < sizes.J; ++j)
                for (Index r = 0; r < R; ++r) {
                    const float* x = from + r * E + j;
                    put(to + r * sizes.K() + j, x[0] * w[j] + x[HJ] * w[step + j] +
                                                    x[2 * HJ] * w[2 * step + j] +
                                                    x[3 * HJ] * w[3 * step + j]);
                }
        }
}

// Convolution, maps and gates of tokens [first, end) of all windows. c, which is also the query, k
// and v are [N, S, K], gates [B, S, 2 H] pre-activations. If B is 1, `earlier` rows of the same
// window may precede xz.
template <class T>
INLINE void before_cell(const T* xz, const Sizes& sizes, const Weights& weights, Index earlier,
                        Index first, Index end, T* c, T* k, T* v, float* gates) {
    const Index E = sizes.E(), G = 2 * sizes.H;
    Buffer<float> buffers(2 * ROWS * E);
    float *x_rows = buffers.data(), *c_rows = x_rows + ROWS * E;
    while (first < end) {
        const Index b = first / sizes.S, s = first % sizes.S,
                    rows = std::min(end - first, sizes.S - s);
        in_rows<ROWS>(rows, [&](auto R, Index row) ALWAYS {
            const Index token = first + row, at = (b * sizes.H * sizes.S + s + row) * sizes.K();
            for (Index r = 0; r < R; ++r) {
                const T* x = xz + (token + r) * 2 * E;
                float *x_row = x_rows + r * E, *c_row = c_rows + r * E;
                convolve_row(x, earlier + s + row + r, E, weights, c_row);
                VECTORIZED
                for (Index e = 0; e < E; ++e) {
                    c_row[e] = silu(c_row[e]);
                    x_row[e] = get(x[e]);
                }
                to_heads(c_row, sizes, c + at + r * sizes.K());
            }
            map_rows<R>(c_rows, weights.key, sizes, k + at);
            map_rows<R>(x_rows, weights.value, sizes, v + at);
            gate_rows<R>(c_rows, x_rows, weights, E, G, gates + token * G);
        });
        first += rows;
    }
}

// Normalizes u [N, S, K] of heads [first, end) by its sums [N, S], norms every head, adds the skip
// of c and gates by SiLU(z), into out [B, S, E], whose rows are `out_row` numbers apart.
template <class T>
INLINE void after_cell(const T* u, const float* sums, const float* floor, const T* c, const T* xz,
                       const Sizes& sizes, const Weights& weights, float cell_eps, float norm_eps,
                       Index first, Index end, Index out_row, T* out) {
    const Index S = sizes.S, K = sizes.K(), E = sizes.E();
    Buffer<float> row(K);
    float* hidden = row.data();
    for (Index n = first; n < end; ++n) {
        const Index b = n / sizes.H, h = n % sizes.H;
        const float *norm = weights.norm + h * K, *skip = weights.skip + h * K;
        for (Index s = 0; s < S; ++s) {
            const Index token = n * S + s;
            const float size = std::max(std::abs(sums[token]), floor[token]) + cell_eps;
            const float scale = normalize_row(u + token * K, 1.0f / size, K, norm_eps, hidden);
            const T *c_row = c + token * K, *z = xz + (b * S + s) * 2 * E + E + h * K;
            T* to = out + (b * S + s) * out_row + h * K;
            VECTORIZED
            for (Index i = 0; i < K; ++i)
                put(to + i,
                    (hidden[i] * scale * norm[i] + get(c_row[i]) * skip[i]) * silu(get(z[i])));
        }
    }
}

// The norm before a block, of tokens [rows, D].
template <class T>
INLINE void layer_norm(const float* tokens, const float* norm, Index rows, Index D, float eps,
                       T* out) {
    Buffer<float> row(D);
    float* hidden = row.data();
    for (; rows > 0; --rows, tokens += D, out += D) {
        const float scale = normalize_row(tokens, 1.0f, D, eps, hidden);
        VECTORIZED
        for (Index i = 0; i < D; ++i) put(out + i, hidden[i] * scale * norm[i]);
    }
}

}  // namespace

// Checked by library.py: the version of all exported functions, and the sizes in weights' shapes.
extern "C" const Index constants[] = {8, WIDTH, PLACES};

#define ENTRY_POINTS(T, NAME)                                                                      \
    extern "C" EACH_CPU void before_cell_##NAME(const Sizes* sizes, const Weights* weights,        \
                                                const T* xz, Index earlier, Index first,           \
                                                Index end, T* c, T* k, T* v, float* gates) {       \
        before_cell(xz, *sizes, *weights, earlier, first, end, c, k, v, gates);                    \
    }                                                                                              \
    extern "C" EACH_CPU void after_cell_##NAME(                                                    \
        const Sizes* sizes, const Weights* weights, const T* u, const float* sums,                 \
        const float* floor, const T* c, const T* xz, float cell_eps, float norm_eps, Index first,  \
        Index end, Index out_row, T* out) {                                                        \
        after_cell(u, sums, floor, c, xz, *sizes, *weights, cell_eps, norm_eps, first, end,        \
                   out_row, out);                                                                  \
    }                                                                                              \
    extern "C" EACH_CPU void layer_norm_##NAME(const float* tokens, const float* norm, Index rows, \
                                               Index D, float eps, T* out) {                       \
        layer_norm(tokens, norm, rows, D, eps, out);                                               \
    }

ENTRY_POINTS(float, float32)
ENTRY_POINTS(BFloat16, bfloat16)

template <>
AroundCell<float> around_cell() {
    return {before_cell_float32, after_cell_float32, layer_norm_float32};
}

template <>
AroundCell<BFloat16> around_cell() {
    return {before_cell_bfloat16, after_cell_bfloat16, layer_norm_bfloat16};
}

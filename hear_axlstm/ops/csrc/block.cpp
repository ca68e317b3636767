// A whole mLSTM block without gradients, in two calls: before and after its gates' activations.
//
// Tokens are float; tensors around the block are T.
//
// Shapes: as in around_cell.h; D model width, at most E.

#include "dispatch.h"
#include "parallel.h"

namespace {

// Fixed weights of a block, in the layout of `_BlockWeights` in library.py.
struct BlockWeights {
    Weights mixer;
    const float* norm;      // [D]
    const void *up, *down;  // packed
    Index D;
    float cell_eps, norm_eps, largest_exponent;
};

constexpr Index CONTEXT = WIDTH - 1;  // rows of x before a stream's tokens
constexpr Index WORK = 500;           // FLOPs that take as long as one pass over a channel

// Where a block keeps its tensors between the two calls, within [(B S + 1) 6 E].
template <class T>
struct Scratch {
    T *xz, *c, *k, *v, *u;
    Scratch(T* space, const Sizes& sizes) {
        const Index E = sizes.E(), size = sizes.B * sizes.S * E;
        xz = space + CONTEXT * 2 * E;
        c = xz + 2 * size, k = c + size, v = k + size, u = v + size;
    }
    T* normed() const { return u; }  // [B S, D], until the sums are computed
    T* mixed() const { return xz; }  // overwrites x, [B S, 2 E]
};

// The cell's gates as [N, S] from their logarithms [B, S, H], for scores without the keys' factor
// 1 / sqrt(K); see `mlstm.stabilize_after`. m [N], if given, is updated to that after the last
// token.
struct Gates {
    Buffer<double> a, running_max;
    Buffer<float> floor;
    Gates(const float* log_i, const float* log_f, double* m, float largest, const Sizes& sizes)
        : a(sizes.B * sizes.H * sizes.S), running_max(a.size()), floor(a.size()) {
        const double scale = std::sqrt(double(sizes.K()));
        for (Index n = 0; n < sizes.B * sizes.H; ++n) {
            const Index at = n / sizes.H * sizes.S * sizes.H + n % sizes.H;
            double total = 0.0, most = m ? m[n] : -INFINITY;
            for (Index s = 0, to = n * sizes.S; s < sizes.S; ++s, ++to) {
                total += log_f[at + s * sizes.H];
                a[to] = log_i[at + s * sizes.H] - total;
                most = running_max[to] = std::max(most, a[to]);
                floor[to] = float(std::exp(std::min(-total - most, double(largest))) * scale);
            }
            if (m) m[n] = total + most;
        }
    }
};

// The norm, the projection to xz, convolution, maps and the gates' pre-activations. `context`
// [3, E] has a stream's last rows of x and is updated; it is null for whole windows.
template <class T>
void block_begin(const Sizes& sizes, const BlockWeights& weights, const float* tokens,
                 Index threads, T* context, T* space, float* gates) {
    const T* up = static_cast<const T*>(weights.up);
    const Index D = weights.D, E = sizes.E(), rows = sizes.B * sizes.S;
    const Index earlier = context ? CONTEXT : 0;
    const Scratch<T> scratch(space, sizes);
    in_parts(rows, 4 * rows * D * E, threads, [&](Index first, Index end) {
        T* normed = scratch.normed() + first * D;
        layer_norm(tokens + first * D, weights.norm, end - first, D, weights.norm_eps, normed);
        project(normed, up, end - first, D, 2 * E, scratch.xz + first * 2 * E);
    });
    for (Index i = 0; i < earlier; ++i)
        std::copy_n(context + i * E, E, scratch.xz + (i - earlier) * 2 * E);
    in_parts(rows, WORK * rows * E, threads, [&](Index first, Index end) {
        before_cell(scratch.xz, sizes, weights.mixer, earlier, first, end, scratch.c, scratch.k,
                    scratch.v, gates);
    });
    for (Index i = 0; i < earlier; ++i)
        std::copy_n(scratch.xz + (sizes.S + i - earlier) * 2 * E, E, context + i * E);
}

// The cell and all that follows it, added to the tokens. The gates' logarithms are [B, S, H]. The
// state of a stream is updated; its tensors are null for whole windows.
template <class T>
void block_end(const Sizes& sizes, const BlockWeights& weights, const float* log_i,
               const float* log_f, double* m, float* memory, float* normalizer, Index threads,
               T* space, float* tokens) {
    const T* down = static_cast<const T*>(weights.down);
    const Index D = weights.D, E = sizes.E(), S = sizes.S;
    const Index heads = sizes.B * sizes.H, rows = sizes.B * S;
    const Scratch<T> scratch(space, sizes);
    const Buffer<double> before(m, m ? m + heads : m);
    const State state{before.data(), memory, normalizer};
    const Gates gates(log_i, log_f, m, weights.largest_exponent, sizes);
    Buffer<float> sums(heads * S);
    in_parts(heads, (2 * S + WORK) * rows * E, threads, [&](Index first, Index end) {
        cell_sums(scratch.c, scratch.k, scratch.v, gates.a.data(), gates.running_max.data(), first,
                  end, S, sizes.K(), state, scratch.u, sums.data());
        after_cell(scratch.u, sums.data(), gates.floor.data(), scratch.c, scratch.xz, sizes,
                   weights.mixer, weights.cell_eps, weights.norm_eps, first, end, 2 * E,
                   scratch.mixed());
    });
    in_parts(rows, 2 * rows * D * E, threads, [&](Index first, Index end) {
        project_onto(scratch.mixed() + first * 2 * E, 2 * E, down, end - first, E, D,
                     tokens + first * D);
    });
}

}  // namespace

#define BLOCK(T, NAME)                                                                             \
    extern "C" Index block_begin_##NAME(const Sizes* sizes, const BlockWeights* weights,           \
                                        const float* tokens, Index threads, T* context, T* space,  \
                                        float* gates) {                                            \
        return guarded(                                                                            \
            [=] { block_begin(*sizes, *weights, tokens, threads, context, space, gates); });       \
    }                                                                                              \
    extern "C" Index block_end_##NAME(                                                             \
        const Sizes* sizes, const BlockWeights* weights, const float* log_i, const float* log_f,   \
        double* m, float* memory, float* normalizer, Index threads, T* space, float* tokens) {     \
        return guarded([=] {                                                                       \
            block_end(*sizes, *weights, log_i, log_f, m, memory, normalizer, threads, space,       \
                      tokens);                                                                     \
        });                                                                                        \
    }

BLOCK(float, float32)
BLOCK(BFloat16, bfloat16)

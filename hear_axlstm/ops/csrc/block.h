// A whole mLSTM block without gradients, in two calls: before and after its gates' activations.
//
// Included by forward.cpp, whose `Interior` it uses. Tokens are float; tensors inside the block are T.
//
// Shapes: as in forward.cpp; D model width, at most E.

#include "parallel.h"
#include "products_api.h"

namespace {

// Fixed weights of a block: as in cpu.Block.
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
    Scratch(T* memory, const Sizes& is) {
        const Index E = is.E(), size = is.B * is.S * E;
        xz = memory + CONTEXT * 2 * E;
        c = xz + 2 * size, k = c + size, v = k + size, u = v + size;
    }
    T* normed() const { return u; }  // [B S, D], while there are no sums
    T* mixed() const { return xz; }  // in the place of x, [B S, 2 E]
};

// The cell's gates as [N, S] from their logarithms [B, S, H], for scores without the keys' factor
// 1 / sqrt(K); see `mlstm.stabilize_after`. m [N], if there is one, becomes that after the last token.
struct Gates {
    Buffer<double> a, top;
    Buffer<float> floor;
    Gates(const float* log_i, const float* log_f, double* m, float largest, const Sizes& is)
        : a(is.B * is.H * is.S), top(a.size()), floor(a.size()) {
        const double scale = std::sqrt(double(is.K()));
        for (Index n = 0; n < is.B * is.H; ++n) {
            const Index at = n / is.H * is.S * is.H + n % is.H;
            double total = 0.0, most = m ? m[n] : -INFINITY;
            for (Index s = 0, to = n * is.S; s < is.S; ++s, ++to) {
                total += log_f[at + s * is.H];
                a[to] = log_i[at + s * is.H] - total;
                most = top[to] = std::max(most, a[to]);
                floor[to] = float(std::exp(std::min(-total - most, double(largest))) * scale);
            }
            if (m) m[n] = total + most;
        }
    }
};

// The norm, the projection to xz, convolution, maps and the gates' pre-activations. `context` [3, E]
// has a stream's last rows of x and is updated; it is null for whole windows.
template <class T>
void block_begin(const Sizes& is, const BlockWeights& of, const float* tokens, Index threads,
                 T* context, T* scratch, float* gates) {
    const T* up = static_cast<const T*>(of.up);
    const Index D = of.D, E = is.E(), rows = is.B * is.S, earlier = context ? CONTEXT : 0;
    const Scratch<T> at(scratch, is);
    in_parts(rows, 4 * rows * D * E, threads, [&](Index first, Index end) {
        T* normed = at.normed() + first * D;
        Interior<T>::layer_norm(tokens + first * D, of.norm, end - first, D, of.norm_eps, normed);
        project(normed, up, end - first, D, 2 * E, at.xz + first * 2 * E);
    });
    for (Index i = 0; i < earlier; ++i)
        std::copy_n(context + i * E, E, at.xz + (i - earlier) * 2 * E);
    in_parts(rows, WORK * rows * E, threads, [&](Index first, Index end) {
        Interior<T>::before_cell(&is, &of.mixer, at.xz, earlier, first, end, at.c, at.k, at.v, gates);
    });
    for (Index i = 0; i < earlier; ++i)
        std::copy_n(at.xz + (is.S + i - earlier) * 2 * E, E, context + i * E);
}

// The cell and all that follows it, added to the tokens. The gates' logarithms are [B, S, H]. The
// state of a stream is updated; its tensors are null for whole windows.
template <class T>
void block_end(const Sizes& is, const BlockWeights& of, const float* log_i, const float* log_f,
               double* m, float* memory, float* normalizer, Index threads, T* scratch,
               float* tokens) {
    const T* down = static_cast<const T*>(of.down);
    const Index D = of.D, E = is.E(), S = is.S, heads = is.B * is.H, rows = is.B * S;
    const Scratch<T> at(scratch, is);
    const Buffer<double> before(m, m ? m + heads : m);
    const State state{before.data(), memory, normalizer};
    const Gates gates(log_i, log_f, m, of.largest_exponent, is);
    Buffer<float> sums(heads * S);
    in_parts(heads, (2 * S + WORK) * rows * E, threads, [&](Index first, Index end) {
        cell(at.c, at.k, at.v, gates.a.data(), gates.top.data(), first, end, S, is.K(), state, at.u,
             sums.data());
        Interior<T>::after_cell(&is, &of.mixer, at.u, sums.data(), gates.floor.data(), at.c, at.xz,
                                of.cell_eps, of.norm_eps, first, end, 2 * E, at.mixed());
    });
    in_parts(rows, 2 * rows * D * E, threads, [&](Index first, Index end) {
        project_onto(at.mixed() + first * 2 * E, 2 * E, down, end - first, E, D,
                     tokens + first * D);
    });
}

}  // namespace

#define BLOCK(T, NAME)                                                                             \
    extern "C" void block_begin_##NAME(const Sizes* is, const BlockWeights* of,                    \
                                       const float* tokens, Index threads, T* context, T* scratch, \
                                       float* gates) {                                             \
        block_begin(*is, *of, tokens, threads, context, scratch, gates);                           \
    }                                                                                              \
    extern "C" void block_end_##NAME(const Sizes* is, const BlockWeights* of, const float* log_i,  \
                                     const float* log_f, double* m, float* memory,                 \
                                     float* normalizer, Index threads, T* scratch,                 \
                                     float* tokens) {                                              \
        block_end(*is, *of, log_i, log_f, m, memory, normalizer, threads, scratch, tokens);        \
    }

BLOCK(float, float32)
BLOCK(BFloat16, bfloat16)

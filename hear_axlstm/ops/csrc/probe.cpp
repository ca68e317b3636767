// How heareval's probe learns from a batch: one hidden layer, and a linear classifier,
//
//     z = x weight    y = scale (z - mean) / sqrt(variance + eps) + shift
//     h = relu(y), where dropout keeps it    logits = h out^T + bias
//
// Hidden units are worked on by blocks of W: what belongs to a block stays in the cache from product
// to product, and Adam's step follows while the gradient is still there.
//
// Shapes: N clips, D features, H hidden units, C classes. A matrix that lies by blocks, [N, W] for
// instance, is a matrix of 48 columns after the other, and at the end one of those that are left.

#include "probe.h"

#ifdef HAS_PRODUCTS
#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4,avx512bf16")

namespace {

// Mean and deviation of each column of z [N, W], which the running ones follow.
template <Index W>
INLINE void measure(const float* z, Index N, Index unit, float eps, float momentum,
                    const Probe& probe, const Activations& to) {
    float sums[W] = {}, squares[W] = {}, mean[W];
    for (Index n = 0; n < N; ++n) {
        VECTORIZED
        for (Index i = 0; i < W; ++i) sums[i] += z[n * W + i];
    }
    for (Index i = 0; i < W; ++i) mean[i] = sums[i] / float(N);
    for (Index n = 0; n < N; ++n) {
        VECTORIZED
        for (Index i = 0; i < W; ++i) {
            const float centered = z[n * W + i] - mean[i];
            squares[i] += centered * centered;
        }
    }
    for (Index i = 0; i < W; ++i) {
        float &running = probe.mean[unit + i], &variance = probe.variance[unit + i];
        to.mean[unit + i] = mean[i];
        to.inverse[unit + i] = 1 / std::sqrt(squares[i] / float(N) + eps);
        running += momentum * (mean[i] - running);
        variance += momentum * (squares[i] / float(N - 1) - variance);
    }
}

template <class T>
struct ForwardMemory {
    Buffer<Word> words;
    Buffer<T> h, out;
};

// What a block of units adds to the logits; without dropout by the running statistics.
template <Index G, class T>
INLINE void add_logits(const ProbeSizes& is, const Probe& probe, const T* x, Index unit, float eps,
                       float momentum, const Dropout* dropout, const Activations& to,
                       ForwardMemory<T>& memory, float* logits) {
    constexpr Index W = G * GROUP;
    const Index columns = whole_groups(is.C);
    float* z = to.z + unit * is.N;
    const float* weight = probe.weight.value + unit * is.D;
    multiply_rows(x, is.N, is.D, lay_rows<T>(weight, is.D, W, W, memory.words.data()), z, W);
    if (dropout) {
        measure<W>(z, is.N, unit, eps, momentum, probe, to);
        draw(dropout->state, dropout->numbers + unit * is.N, is.N * W);
    } else {
        for (Index i = unit; i < unit + W; ++i) {
            to.mean[i] = probe.mean[i];
            to.inverse[i] = 1 / std::sqrt(probe.variance[i] + eps);
        }
    }
    const Affine<W> affine(probe, to, unit);
    T *h = memory.h.data(), *out = memory.out.data();
    for (Index i = 0; i < is.N * W; i += W) {
        float y[W];
        VECTORIZED
        for (Index j = 0; j < W; ++j)
            y[j] = std::max(z[i + j] * affine.gain[j] + affine.offset[j], 0.0f);
        if (dropout) {
            const std::int16_t* numbers = dropout->numbers + unit * is.N + i;
            VECTORIZED
            for (Index j = 0; j < W; ++j)
                y[j] *= numbers[j] >= dropout->threshold ? dropout->factor : 0;
        }
        VECTORIZED
        for (Index j = 0; j < W; ++j) put(h + i + j, y[j]);
    }
    for (Index c = 0; c < is.C; ++c)
        for (Index i = 0; i < W; ++i) put(out + c * W + i, probe.out.value[c * is.H + unit + i]);
    lay_transposed(out, is.C, W, memory.words.data());
    const Laid laid{memory.words.data(), GROUP, W / IN_WORD<T> * GROUP};
    multiply_rows<true>(h, whole(is.N, ROWS), W, laid, logits, columns);
}

// The gradients of the logits, and what products need of it.
template <class T>
struct LogitGradient {
    Buffer<T> by_clip, by_class;  // [N, C], [C, N], padded to whole words
    Buffer<float> sums;           // [C]

    LogitGradient(const float* dlogits, Index N, Index C)
        : by_clip(N * whole(C, IN_WORD<T>)), by_class(C * whole(N, IN_WORD<T>)), sums(C) {
        for (Index n = 0; n < N; ++n)
            for (Index c = 0; c < C; ++c) {
                const float gradient = dlogits[n * C + c];
                put(&by_clip[n * whole(C, IN_WORD<T>) + c], gradient);
                put(&by_class[c * whole(N, IN_WORD<T>) + n], gradient);
                sums[c] += gradient;
            }
    }
};

struct LearnMemory {
    Buffer<float> dh, h, gradient;
    Buffer<Word> words;
};

template <Index G, class T>
INLINE void learn_units(const ProbeSizes& is, const Probe& probe, const T* x_DN, Index unit,
                        const Dropout& dropout, const Activations& from,
                        const LogitGradient<T>& dlogits, AdamStep step, LearnMemory& memory) {
    constexpr Index W = G * GROUP;
    const Index N = is.N, K = whole(N, IN_WORD<T>);
    const float *z = from.z + unit * N, *mean = from.mean + unit, *inverse = from.inverse + unit;
    const std::int16_t* numbers = dropout.numbers + unit * N;
    float *dh = memory.dh.data(), *h = memory.h.data(), *gradient = memory.gradient.data();
    Word* words = memory.words.data();
    const Learned out = probe.out.at(unit);
    multiply_rows(dlogits.by_clip.data(), N, whole(is.C, IN_WORD<T>),
                  lay_rows<T>(out.value, is.C, is.H, W, words), dh, W);
    const Affine<W> affine(probe, from, unit);
    float dscale[W] = {}, dshift[W] = {};
    for (Index i = 0; i < N * W; i += W) {
        VECTORIZED
        for (Index j = 0; j < W; ++j) {
            const float y = z[i + j] * affine.gain[j] + affine.offset[j];
            const bool passes = y > 0 && numbers[i + j] >= dropout.threshold;
            const float factor = passes ? dropout.factor : 0;
            h[i + j] = y * factor;
            const float dy = dh[i + j] *= factor;
            dshift[j] += dy;
            dscale[j] += dy * (z[i + j] - mean[j]) * inverse[j];
        }
    }
    multiply_rows(dlogits.by_class.data(), is.C, K, lay_rows<T>(h, N, W, W, words), gradient, W);
    for (Index c = 0; c < is.C; ++c) learn(out.at(c * is.H), gradient + c * W, W, step);
    for (Index i = 0; i < N * W; i += W) {
        VECTORIZED
        for (Index j = 0; j < W; ++j) {
            const float normal = (z[i + j] - mean[j]) * inverse[j];
            const float common = (dshift[j] + normal * dscale[j]) / float(N);
            dh[i + j] = affine.gain[j] * (dh[i + j] - common);
        }
    }
    const Laid dz = lay_rows<T>(dh, N, W, W, words);
    for (Index d = 0; d < is.D; d += ROWS) {
        const Learned rows = probe.weight.at(unit * is.D + d * W);
        prefetch(rows, ROWS * W);  // they come while the product goes on
        multiply<ROWS>(x_DN + d * K, K, dz, K / IN_WORD<T>, G, gradient, W);
        learn(rows, gradient, ROWS * W, step);
    }
    learn(probe.scale.at(unit), dscale, W, step);
    learn(probe.shift.at(unit), dshift, W, step);
}

template <class T>
INLINE void forward(const ProbeSizes& is, const Probe& probe, const Activations& to, const T* x,
                    float eps, float momentum, const Dropout* dropout, float* logits) {
    constexpr Index W = AT_ONCE * GROUP;
    const Index columns = whole_groups(is.C), rows = whole(is.N, ROWS);
    ForwardMemory<T> memory{Buffer<Word>(std::max(is.D, columns) * W), Buffer<T>(rows * W),
                            Buffer<T>(is.C * W)};
    for (Index n = 0; n < rows; ++n)
        for (Index c = 0; c < columns; ++c)
            logits[n * columns + c] = c < is.C ? probe.bias.value[c] : 0;
    in_blocks(is.H, [&](auto G, Index unit) __attribute__((always_inline)) {
        add_logits<G>(is, probe, x, unit, eps, momentum, dropout, to, memory, logits);
    });
}

template <class T>
INLINE void backward(const ProbeSizes& is, const Probe& probe, const Activations& from,
                     const T* x_DN, const Dropout& dropout, const float* gradient, AdamStep step) {
    constexpr Index W = AT_ONCE * GROUP;
    const LogitGradient<T> dlogits(gradient, is.N, is.C);
    LearnMemory memory{Buffer<float>(is.N * W), Buffer<float>(is.N * W),
                       Buffer<float>(std::max(is.C, ROWS) * W),
                       Buffer<Word>((std::max(is.N, is.C) + 1) / 2 * W)};
    in_blocks(is.H, [&](auto G, Index unit) __attribute__((always_inline)) {
        learn_units<G>(is, probe, x_DN, unit, dropout, from, dlogits, step, memory);
    });
    learn(probe.bias, dlogits.sums.data(), is.C, step);
}

}  // namespace

#define ENTRY_POINTS(T, NAME)                                                                      \
    extern "C" void probe_logits_##NAME(const ProbeSizes* is, const Probe* probe,                  \
                                        const Activations* to, const T* x, float eps,              \
                                        float* logits) {                                           \
        forward(*is, *probe, *to, x, eps, 0.0f, nullptr, logits);                                  \
    }                                                                                              \
    extern "C" void probe_forward_##NAME(                                                          \
        const ProbeSizes* is, const Probe* probe, const Activations* to, const T* x, float eps,    \
        float momentum, Word* state, std::int16_t* numbers, Index threshold, float factor,         \
        float* logits) {                                                                           \
        const Dropout dropout{state, numbers, std::int16_t(threshold), factor};                    \
        forward(*is, *probe, *to, x, eps, momentum, &dropout, logits);                             \
    }                                                                                              \
    extern "C" void probe_learn_##NAME(                                                            \
        const ProbeSizes* is, const Probe* probe, const Activations* from, const T* x_DN,          \
        Word* state, std::int16_t* numbers, Index threshold, float factor, const float* gradient,  \
        float size, float root) {                                                                  \
        const Dropout dropout{state, numbers, std::int16_t(threshold), factor};                    \
        backward(*is, *probe, *from, x_DN, dropout, gradient, {size, root});                       \
    }

ENTRY_POINTS(float, float32)
ENTRY_POINTS(BFloat16, bfloat16)

#pragma GCC pop_options
#endif

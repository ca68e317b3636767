// The gradients of forward.cpp. Gradients of weights are added to what they point to.

#include "numbers.h"

namespace {

// Gradients of the weights, shaped like them.
struct Gradients {
    float *conv, *conv_bias, *key, *value, *gates_c, *gates_x, *gate_bias, *norm, *skip;
};

// From d out [B, S, E] to d u [N, S, K], d sums and d floor [N, S], and, by way of the skip and the
// output gate, to d c [N, S, K] and d z.
template <class T>
INLINE void after_cell(const T* u, const float* sums, const float* floor, const T* c, const T* xz,
                       const Sizes& is, const Weights& weights, float cell_eps, float norm_eps,
                       const T* d_out, T* d_u, float* d_sums, float* d_floor, float* d_c, T* d_xz,
                       const Gradients& d) {
    const Index S = is.S, K = is.K(), E = is.E();
    Buffer<float> rows(2 * K);
    float *normed = rows.data(), *d_hidden = normed + K;
    for (Index b = 0; b < is.B; ++b)
        for (Index h = 0; h < is.H; ++h)
            for (Index s = 0; s < S; ++s) {
                const Index token = (b * is.H + h) * S + s;
                const T* u_row = u + token * K;
                const float sum = sums[token], least = floor[token];
                const float factor = 1.0f / (std::max(std::abs(sum), least) + cell_eps);
                const float scale = normalize_row(u_row, factor, K, norm_eps, normed);
                const float *norm = weights.norm + h * K, *skip = weights.skip + h * K;
                float *d_norm = d.norm + h * K, *d_skip = d.skip + h * K;
                const Index at = (b * S + s) * E + h * K, at_z = (b * S + s) * 2 * E + E + h * K;
                const T *c_row = c + token * K, *z = xz + at_z, *d_row = d_out + at;
                float* d_c_row = d_c + token * K;
                T *d_z = d_xz + at_z, *d_u_row = d_u + token * K;
                float mean = 0.0f, along = 0.0f;
#pragma omp simd reduction(+ : mean, along)
                for (Index i = 0; i < K; ++i) {
                    const float z_i = get(z[i]), c_i = get(c_row[i]), open = sigmoid(z_i);
                    const float normed_i = normed[i] * scale;
                    const float gated = normed_i * norm[i] + c_i * skip[i], d_i = get(d_row[i]);
                    const float d_gated = d_i * z_i * open;
                    put(d_z + i, d_i * gated * open * (1.0f + z_i * (1.0f - open)));
                    d_norm[i] += d_gated * normed_i;
                    d_skip[i] += d_gated * c_i;
                    d_c_row[i] = d_gated * skip[i];
                    normed[i] = normed_i;
                    d_hidden[i] = d_gated * norm[i];
                    mean += d_hidden[i];
                    along += d_hidden[i] * normed_i;
                }
                mean /= float(K);
                along /= float(K);
                float through = 0.0f;  // d hidden . hidden
#pragma omp simd reduction(+ : through)
                for (Index i = 0; i < K; ++i) {
                    const float d_i = scale * (d_hidden[i] - mean - normed[i] * along);
                    through += d_i * get(u_row[i]);
                    put(d_u_row + i, d_i * factor);
                }
                const float d_size = -through * factor * factor;
                const bool by_sum = std::abs(sum) >= least;
                d_sums[token] = by_sum ? std::copysign(d_size, d_size * sum) : 0.0f;
                d_floor[token] = by_sum ? 0.0f : d_size;
            }
}

// d in and d weight of a block-diagonal map of a row; d in is added to.
INLINE void map_row(const float* in, const float* weight, const float* d_out, Index HJ, float* d_in,
                    float* d_weight) {
    for (Index q = 0; q < PLACES; ++q)
        for (Index p = 0; p < PLACES; ++p) {
            const float *w = weight + (q * PLACES + p) * HJ, *in_q = in + q * HJ;
            const float* d_p = d_out + p * HJ;
            float *d_w = d_weight + (q * PLACES + p) * HJ, *d_q = d_in + q * HJ;
            VECTORIZED
            for (Index j = 0; j < HJ; ++j) {
                d_q[j] += w[j] * d_p[j];
                d_w[j] += in_q[j] * d_p[j];
            }
        }
}

INLINE void gates_row(const float* in, const float* weight, const float* d_gates, Index G, Index E,
                      float* d_in, float* d_weight) {
    for (Index g = 0; g < G; ++g) {
        const float *w = weight + g * E, d_g = d_gates[g];
        float* d_w = d_weight + g * E;
        VECTORIZED
        for (Index e = 0; e < E; ++e) {
            d_in[e] += w[e] * d_g;
            d_w[e] += in[e] * d_g;
        }
    }
}

// From the gradients of the gates' pre-activations [B, S, 2 H], of c (from the skip), q, k and v
// [N, S, K] to d x.
template <class T>
INLINE void before_cell(const T* xz, const Sizes& is, const Weights& weights, const float* d_gates,
                        const float* d_c, const T* d_q, const T* d_k, const T* d_v, T* d_xz,
                        const Gradients& d) {
    const Index E = is.E(), S = is.S, G = 2 * is.H;
    Buffer<float> rows(7 * E), d_x(S * E);
    float *x_row = rows.data(), *before = x_row + E, *c_row = before + E, *d_before = c_row + E,
          *part = d_before + E, *d_key = part + E, *d_value = d_key + E;
    for (Index b = 0; b < is.B; ++b) {
        std::fill(d_x.begin(), d_x.end(), 0.0f);
        for (Index s = 0; s < S; ++s) {
            const T* x = xz + (b * S + s) * 2 * E;
            const float* d_g = d_gates + (b * S + s) * G;
            float* d_x_row = d_x.data() + s * E;
            convolve_row(x, s, E, weights, before);
            VECTORIZED
            for (Index e = 0; e < E; ++e) c_row[e] = silu(before[e]);
            VECTORIZED
            for (Index e = 0; e < E; ++e) x_row[e] = get(x[e]);
            const Index at = (b * is.H * S + s) * is.K();
            from_heads(d_c + at, is, d_before);  // becomes d c, then d before
            from_heads(d_q + at, is, part);
            VECTORIZED
            for (Index e = 0; e < E; ++e) d_before[e] += part[e];
            from_heads(d_k + at, is, d_key);
            map_row(c_row, weights.key, d_key, is.HJ(), d_before, d.key);
            from_heads(d_v + at, is, d_value);
            map_row(x_row, weights.value, d_value, is.HJ(), d_x_row, d.value);
            gates_row(c_row, weights.gates_c, d_g, G, E, d_before, d.gates_c);
            gates_row(x_row, weights.gates_x, d_g, G, E, d_x_row, d.gates_x);
            for (Index g = 0; g < G; ++g) d.gate_bias[g] += d_g[g];
            VECTORIZED
            for (Index e = 0; e < E; ++e) {
                const float open = sigmoid(before[e]);
                d_before[e] *= open * (1.0f + before[e] * (1.0f - open));
                d.conv_bias[e] += d_before[e];
            }
            for (Index delay = 0; delay < WIDTH && delay <= s; ++delay) {
                const T* earlier = x - delay * 2 * E;
                const float* w = weights.conv + (WIDTH - 1 - delay) * E;
                float *d_w = d.conv + (WIDTH - 1 - delay) * E, *d_earlier = d_x_row - delay * E;
                VECTORIZED
                for (Index e = 0; e < E; ++e) {
                    d_w[e] += d_before[e] * get(earlier[e]);
                    d_earlier[e] += d_before[e] * w[e];
                }
            }
        }
        for (Index s = 0; s < S; ++s) {
            T* to = d_xz + (b * S + s) * 2 * E;
            VECTORIZED
            for (Index e = 0; e < E; ++e) put(to + e, d_x[s * E + e]);
        }
    }
}

}  // namespace

#define ENTRY_POINTS(T, NAME)                                                                      \
    extern "C" EACH_CPU void after_cell_backward_##NAME(                                           \
        const Sizes* is, const Weights* weights, const T* u, const float* sums,                    \
        const float* floor, const T* c, const T* xz, float cell_eps, float norm_eps,               \
        const T* d_out, T* d_u, float* d_sums, float* d_floor, float* d_c, T* d_xz,                \
        const Gradients* d) {                                                                      \
        after_cell(u, sums, floor, c, xz, *is, *weights, cell_eps, norm_eps, d_out, d_u, d_sums,   \
                   d_floor, d_c, d_xz, *d);                                                         \
    }                                                                                              \
    extern "C" EACH_CPU void before_cell_backward_##NAME(                                          \
        const Sizes* is, const Weights* weights, const T* xz, const float* d_gates,                \
        const float* d_c, const T* d_q, const T* d_k, const T* d_v, T* d_xz, const Gradients* d) { \
        before_cell(xz, *is, *weights, d_gates, d_c, d_q, d_k, d_v, d_xz, *d);                     \
    }

ENTRY_POINTS(float, float32)
ENTRY_POINTS(BFloat16, bfloat16)

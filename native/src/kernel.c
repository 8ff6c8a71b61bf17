/*
 * The selective scan for one instruction set; compiled once per set with a different SEMILLIE_SUFFIX.
 *
 * Vector lanes run across channels. A tile of tokens is first turned into step sizes, then every state of the
 * channel vector is advanced over the tile in registers.
 */
#include "semillie_scan.h"

#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define V 16
#elif defined(__AVX__)
#define V 8
#else
#define V 4
#endif

#define T SEMILLIE_SCAN_TILE
#define JOIN2(a, b) a##_##b
#define JOIN(a, b) JOIN2(a, b)
#define INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* States advanced together: as many as fit in registers next to the temporaries. */
#ifndef FORWARD_STATES
#define FORWARD_STATES (V == 16 ? 16 : 8)
#endif
#define BACKWARD_STATES 4

typedef float vf __attribute__((vector_size(V * 4)));
typedef int32_t vi __attribute__((vector_size(V * 4)));

static const float LOG2_E = 1.44269504088896341f, LN_2 = 0.693147180559945309f;

INLINE vf load(const float *p) {
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE void store(float *p, vf v) { memcpy(p, &v, sizeof v); }

/* The last vector of a range may have fewer than V channels; the missing lanes are zero. */
INLINE vf load_part(const float *p, int64_t lanes) {
    if (lanes == V) return load(p);
    float t[V];
    for (int i = 0; i < V; i++) t[i] = i < lanes ? p[i] : 0.0f;
    return load(t);
}

INLINE void store_part(float *p, vf v, int64_t lanes) {
    if (lanes == V) {
        store(p, v);
        return;
    }
    float t[V];
    store(t, v);
    for (int i = 0; i < lanes; i++) p[i] = t[i];
}

INLINE vf splat(float x) { return x - (vf){0}; }

INLINE vf choose(vi mask, vf a, vf b) { return (vf)((mask & (vi)a) | (~mask & (vi)b)); }

INLINE float sum(vf v) {
    float t[V];
    store(t, v);
    for (int w = V / 2; w; w /= 2)
        for (int i = 0; i < w; i++) t[i] += t[i + w];
    return t[0];
}

/* Sums of four consecutive vectors, folded together: two halves of different vectors share one addition. */
INLINE void sum4(float *out, const float *v) {
    vf a = load(v), b = load(v + V), c = load(v + 2 * V), d = load(v + 3 * V);
#define FOLD(x, y, low, high) (__builtin_shufflevector(x, y, LIST low) + __builtin_shufflevector(x, y, LIST high))
#define LIST(...) __VA_ARGS__
#if V == 16
#define LOW (0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23)
#define HIGH (8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31)
    vf ab = FOLD(a, b, LOW, HIGH), cd = FOLD(c, d, LOW, HIGH);
    vf all = FOLD(ab, cd, (0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27),
                  (4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31));
    all += __builtin_shufflevector(all, all, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    all += __builtin_shufflevector(all, all, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
    const int place[4] = {0, 4, 8, 12};
#elif V == 8
#define LOW (0, 1, 2, 3, 8, 9, 10, 11)
#define HIGH (4, 5, 6, 7, 12, 13, 14, 15)
    vf ab = FOLD(a, b, LOW, HIGH), cd = FOLD(c, d, LOW, HIGH);
    vf all = FOLD(ab, cd, (0, 1, 8, 9, 4, 5, 12, 13), (2, 3, 10, 11, 6, 7, 14, 15));
    all += __builtin_shufflevector(all, all, 1, 0, 3, 2, 5, 4, 7, 6);
    const int place[4] = {0, 4, 2, 6};
#else
#define LOW (0, 1, 4, 5)
#define HIGH (2, 3, 6, 7)
    vf ab = FOLD(a, b, LOW, HIGH), cd = FOLD(c, d, LOW, HIGH);
    vf all = FOLD(ab, cd, (0, 2, 4, 6), (1, 3, 5, 7));
    const int place[4] = {0, 1, 2, 3};
#endif
    for (int i = 0; i < 4; i++) out[i] = all[place[i]];
#undef FOLD
#undef LIST
#undef LOW
#undef HIGH
}

#if defined(__AVX512F__)
static const float ROOTS[16] __attribute__((aligned(64))) = {1.0f, 1.0442737340927124f, 1.0905077457427979f, 1.1387885808944702f, 1.1892070770263672f, 1.2418577671051025f, 1.2968395948410034f, 1.3542555570602417f, 1.4142135381698608f, 1.4768261909484863f, 1.5422108173370361f, 1.610490322113037f, 1.6817928552627563f, 1.7562521696090698f, 1.8340080976486206f, 1.9152065515518188f};
#endif

/* 2^x, relative error 1.5e-7; 0 far below the smallest float, infinity above the largest, NaN for NaN. The
   constant term of the polynomials is fixed at 1, so that a vanishing step changes nothing. */
INLINE vf exp2_(vf x) {
#if defined(__AVX512F__)
    /* x = s + r with s a multiple of 1/16: 2^s from a table of 2^(i/16), 2^r by its polynomial on [-1/32, 1/32].
       -inf would give r = NaN. */
    const float magic = 786432.0f; /* 1.5 * 2^19: adding it rounds to 1/16 and leaves 16 x in the low bits */
    x = (vf)_mm512_max_ps(_mm512_set1_ps(-1e4f), (__m512)x);
    vf shifted = x + magic;
    vf s = shifted - magic, r = x - s;
    vf q = ((0.055502135306596756f * r + 0.24023428559303284f) * r + 0.6931471824645996f) * r + 1.0f;
    vf root = (vf)_mm512_permutexvar_ps((__m512i)shifted, _mm512_load_ps(ROOTS));
    return q * (vf)_mm512_scalef_ps((__m512)root, (__m512)s);
#else
    const float c1 = 0.6931470036506653f, c2 = 0.24022242426872253f, c3 = 0.05550733581185341f,
                c4 = 0.009671512991189957f, c5 = 0.001326472731307149f;
    /* 1.5 * 2^23 + 127: adding it rounds to an integer and leaves the biased exponent in the low bits. */
    const float magic = 12583039.0f;
#if defined(__AVX__)
    x = (vf)_mm256_min_ps(_mm256_set1_ps(128.0f), _mm256_max_ps(_mm256_set1_ps(-127.0f), (__m256)x));
#elif defined(__SSE2__)
    x = (vf)_mm_min_ps(_mm_set1_ps(128.0f), _mm_max_ps(_mm_set1_ps(-127.0f), (__m128)x));
#else
    x = choose(x < -127.0f, splat(-127.0f), x);
    x = choose(x > 128.0f, splat(128.0f), x);
#endif
    vf shifted = x + magic;
    vf f = x - (shifted - magic);
    vf q = ((((c5 * f + c4) * f + c3) * f + c2) * f + c1) * f + 1.0f;
    return q * (vf)((vi)shifted << 23);
#endif
}

/* log(1 + e^x) and its derivative. */
INLINE vf softplus(vf x, vf *slope) {
    vf magnitude = (vf)((vi)x & 0x7fffffff);
    vf z = exp2_(magnitude * -LOG2_E);
    vf s = z / (2.0f + z), w = s * s;
    /* log(1 + z) = 2 artanh(z / (2 + z)) */
    vf series = (((0.14005996286869049f * w + 0.14000901579856873f) * w + 0.2001076340675354f) * w +
                 0.3333320915699005f) * w + 1.0f;
    if (slope) *slope = choose(x < 0.0f, z, splat(1.0f)) / (1.0f + z);
    return choose(x < 0.0f, (vf){0}, x) + 2.0f * s * series;
}

/* Denormal operands cost hundreds of cycles, and decaying states produce them. */
#if defined(__x86_64__)
INLINE uint64_t flush_denormals(void) {
    unsigned mode = _mm_getcsr();
    _mm_setcsr(mode | 0x8040);
    return mode;
}
INLINE void restore_mode(uint64_t mode) { _mm_setcsr((unsigned)mode); }
#elif defined(__aarch64__)
INLINE uint64_t flush_denormals(void) {
    uint64_t mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    __asm__ volatile("msr fpcr, %0" : : "r"(mode | (1u << 24)));
    return mode;
}
INLINE void restore_mode(uint64_t mode) { __asm__ volatile("msr fpcr, %0" : : "r"(mode)); }
#else
INLINE uint64_t flush_denormals(void) { return 0; }
INLINE void restore_mode(uint64_t mode) { (void)mode; }
#endif

/* What an item works on. */
struct range {
    int64_t batch, part;
    int64_t group, last_group;   /* recurrences, one after the other: all of an image, one of a sequence */
    int64_t first, blocks;       /* first channel, number of vectors */
    int64_t tokens, tiles, row;  /* row: floats in a projection row */
    int64_t stride;              /* floats from token to token in u and y */
};

INLINE struct range find_range(const struct semillie_scan *p, int64_t item) {
    struct range r;
    int64_t chains = p->image ? 1 : p->groups, blocks = (p->channels + V - 1) / V;
    r.part = item % p->parts;
    r.group = p->image ? 0 : item / p->parts % chains;
    r.last_group = p->image ? p->groups - 1 : r.group;
    r.batch = item / p->parts / chains;
    int64_t begin = r.part * blocks / p->parts;
    r.first = begin * V;
    r.blocks = (r.part + 1) * blocks / p->parts - begin;
    r.tokens = p->height * p->width;
    r.tiles = (r.tokens + T - 1) / T;
    r.row = p->groups * (p->rank + 2 * p->states);
    r.stride = p->image ? p->channels : p->groups * p->channels;
    return r;
}

/* Token index in memory of steps [tile * T, tile * T + count) of a recurrence. */
static int find_tokens(const struct semillie_scan *p, const struct range *r, int64_t g, int64_t tile, int64_t *at) {
    int64_t begin = tile * T;
    int count = (int)(r->tokens - begin < T ? r->tokens - begin : T);
    int reverse = p->image && g >= 2, transposed = p->image && (g & 1);
    int64_t step = reverse ? r->tokens - 1 - begin : begin;
    int64_t line = step / p->height, place = step % p->height;
    for (int t = 0; t < count; t++) {
        if (!transposed) {
            at[t] = reverse ? step - t : step + t;
            continue;
        }
        at[t] = place * p->width + line;
        if (reverse) {
            if (place-- == 0) place = p->height - 1, line--;
        } else if (++place == p->height) {
            place = 0, line++;
        }
    }
    return count;
}

/* Parameters of one recurrence and a range of channels, rearranged so that a vector is contiguous. */
struct weights {
    float *a;      /* [block][state][V], times log2(e) */
    float *dt;     /* [block][rank][V] */
    float *bias;   /* [block][V] */
    float *d;      /* [block][V] */
};

static void gather(float *out, const float *in, int64_t rows, int64_t lanes, float scale) {
    /* (lanes, rows) -> (rows, V) */
    for (int64_t i = 0; i < rows; i++)
        for (int64_t v = 0; v < V; v++) out[i * V + v] = in && v < lanes ? in[v * rows + i] * scale : 0.0f;
}

static void scatter(float *out, const float *in, int64_t rows, int64_t lanes) {
    for (int64_t v = 0; v < lanes; v++)
        for (int64_t i = 0; i < rows; i++) out[v * rows + i] = in[i * V + v];
}

INLINE int64_t lanes_of(const struct semillie_scan *p, int64_t channel) {
    return p->channels - channel < V ? p->channels - channel : V;
}

static void prepare(const struct semillie_scan *p, const struct range *r, int64_t g, struct weights *w) {
    for (int64_t b = 0; b < r->blocks; b++) {
        int64_t channel = r->first + b * V, lanes = lanes_of(p, channel), c = g * p->channels + channel;
        gather(w->a + b * p->states * V, p->a + c * p->states, p->states, lanes, LOG2_E);
        gather(w->dt + b * p->rank * V, p->dt_weight ? p->dt_weight + c * p->rank : NULL, p->rank, lanes, 1);
        gather(w->bias + b * V, p->dt_bias ? p->dt_bias + c : NULL, 1, lanes, 1);
        gather(w->d + b * V, p->d ? p->d + c : NULL, 1, lanes, 1);
    }
}

/* Scratch memory: one allocation, cut into vector-aligned pieces. */
struct arena {
    float *base, *next;
};

INLINE float *take(struct arena *arena, int64_t vectors) {
    float *piece = arena->next;
    arena->next += vectors * V;
    return piece;
}

static int reserve(struct arena *arena, int64_t vectors) {
    arena->base = malloc((size_t)vectors * V * 4 + 64);
    arena->next = (float *)(((uintptr_t)arena->base + 63) & ~(uintptr_t)63);
    return arena->base == NULL;
}

INLINE vf step_size(const struct semillie_scan *p, const float *low, const float *delta, int64_t lanes,
                    const float *weight, vf bias, vf *slope) {
    vf raw = bias;
    if (delta) raw += load_part(delta, lanes);
    for (int64_t i = 0; i < p->rank; i++) raw += low[i] * load(weight + i * V);
    if (p->softplus) return softplus(raw, slope);
    if (slope) *slope = splat(1.0f);
    return raw;
}

/* Columns are strided by whole image rows, which the hardware does not foresee. */
INLINE void fetch_row(const struct semillie_scan *p, const float *row, int64_t floats) {
    if (p->image)
        for (int64_t i = 0; i < floats; i += 16) __builtin_prefetch(row + i);
}

/* Advance `n` states over a tile, adding <C, h> to y. */
INLINE void forward_states(int n, int count, const float *a, float *state, const float *dt, const float *weighted,
                           float *y, const float *const *b, int64_t c_offset) {
    vf h[16];
    UNROLL for (int i = 0; i < n; i++) h[i] = load(state + i * V);
    for (int t = 0; t < count; t++) {
        const float *bt = b[t], *ct = bt + c_offset;
        vf step = load(dt + t * V), input = load(weighted + t * V);
        vf out = load(y + t * V), out2 = {0};
        UNROLL for (int i = 0; i < n; i++) {
            h[i] = exp2_(step * load(a + i * V)) * h[i] + input * bt[i];
            if (i & 1)
                out2 += h[i] * ct[i];
            else
                out += h[i] * ct[i];
        }
        store(y + t * V, out + out2);
    }
    UNROLL for (int i = 0; i < n; i++) store(state + i * V, h[i]);
}

int JOIN(semillie_forward, SEMILLIE_SUFFIX)(const struct semillie_scan *p, int64_t item) {
    struct range r = find_range(p, item);
    const int64_t N = p->states, P = p->rank + 2 * N;
    struct arena arena;
    if (reserve(&arena, r.blocks * (2 * N + p->rank + 2) + 3 * T)) return 1;
    struct weights w = {take(&arena, r.blocks * N), take(&arena, r.blocks * p->rank), take(&arena, r.blocks),
                        take(&arena, r.blocks)};
    float *state = take(&arena, r.blocks * N), *dt = take(&arena, T), *weighted = take(&arena, T),
          *y = take(&arena, T);
    const float *b[T];
    int64_t places[2][T], *at = places[0], *next = places[1];
    uint64_t mode = flush_denormals();

    for (int64_t g = r.group; g <= r.last_group; g++) {
        const int64_t offset = r.first + (p->image ? 0 : g * p->channels);
        const float *u = p->u + r.batch * r.tokens * r.stride + offset;
        const float *delta = p->delta ? p->delta + r.batch * r.tokens * r.stride + offset : NULL;
        float *out = p->y + r.batch * r.tokens * r.stride + offset;
        const int add = g > r.group;
        prepare(p, &r, g, &w);
        memset(state, 0, (size_t)(r.blocks * N * V) * sizeof *state);
        int next_count = find_tokens(p, &r, g, 0, next);
        for (int64_t tile = 0; tile < r.tiles; tile++) {
            int64_t *spare = at;
            int count = next_count;
            at = next, next = spare;
            next_count = tile + 1 < r.tiles ? find_tokens(p, &r, g, tile + 1, next) : 0;
            for (int t = 0; t < count; t++) b[t] = p->projection + (r.batch * r.tokens + at[t]) * r.row + g * P + p->rank;
            for (int64_t k = 0; k < r.blocks; k++) {
                const int64_t channel = r.first + k * V, lanes = lanes_of(p, channel);
                float *h = state + k * N * V;
                if (p->checkpoints) {
                    float *save = p->checkpoints +
                                  (((r.batch * p->groups + g) * r.tiles + tile) * N) * p->channels + channel;
                    for (int64_t n = 0; n < N; n++) store_part(save + n * p->channels, load(h + n * V), lanes);
                }
                const vf bias = load(w.bias + k * V), d = load(w.d + k * V);
                for (int t = 0; t < count; t++) {
                    const int64_t place = at[t] * r.stride + k * V;
                    if (k + 1 < r.blocks) {
                        __builtin_prefetch(u + place + V);
                    } else if (t < next_count) {
                        __builtin_prefetch(u + next[t] * r.stride);
                        fetch_row(p, p->projection + (r.batch * r.tokens + next[t]) * r.row + g * P, P);
                    }
                    __builtin_prefetch(out + place, 1);
                    vf x = load_part(u + place, lanes);
                    vf step = step_size(p, b[t] - p->rank, delta ? delta + place : NULL, lanes,
                                        w.dt + k * p->rank * V, bias, NULL);
                    store(dt + t * V, step);
                    store(weighted + t * V, step * x);
                    store(y + t * V, d * x);
                }
                const float *a = w.a + k * N * V;
                int64_t n = 0;
#define FORWARD(size)                                                                        \
    for (; N - n >= size; n += size) {                                                       \
        forward_states(size, count, a + n * V, h + n * V, dt, weighted, y, b, N);            \
        for (int t = 0; t < count; t++) b[t] += size;                                        \
    }
#if FORWARD_STATES >= 16
                FORWARD(16)
#endif
                FORWARD(8)
                FORWARD(4)
                FORWARD(1)
                for (int t = 0; t < count; t++) {
                    b[t] -= N;
                    float *to = out + at[t] * r.stride + k * V;
                    vf value = load(y + t * V);
                    store_part(to, add ? load_part(to, lanes) + value : value, lanes);
                }
            }
        }
        if (p->last_state)
            for (int64_t k = 0; k < r.blocks; k++) {
                const int64_t channel = r.first + k * V;
                scatter(p->last_state + ((r.batch * p->groups + g) * p->channels + channel) * N, state + k * N * V, N,
                        lanes_of(p, channel));
            }
    }
    restore_mode(mode);
    free(arena.base);
    return 0;
}

/* Per-token values of one channel vector in the backward pass, each [T][V]. */
struct token_values {
    float *u, *dt, *weighted, *slope, *grad_y, *grad_weighted, *grad_dt;
};

/*
 * Gradients through `n` states over a tile. `decay` and `kept` ([T][n][V]) hold exp(dt A) and exp(dt A) h_{t-1};
 * `grad_b` and `grad_c` ([T][n][V]) collect the gradients of B and C lane by lane over channel vectors.
 */
INLINE void backward_states(int n, int count, const float *a, const float *state, int64_t state_stride, int64_t lanes,
                            float *adjoint, float *grad_a, const struct token_values *v, const float *const *b,
                            int64_t c_offset, float *decay, float *kept, float *grad_b, float *grad_c) {
    vf h[BACKWARD_STATES], rate[BACKWARD_STATES], total[BACKWARD_STATES];
    UNROLL for (int i = 0; i < n; i++) {
        h[i] = load_part(state + i * state_stride, lanes);
        rate[i] = load(a + i * V);
    }
    for (int t = 0; t < count; t++) {
        const float *bt = b[t];
        vf step = load(v->dt + t * V), input = load(v->weighted + t * V), gy = load(v->grad_y + t * V);
        UNROLL for (int i = 0; i < n; i++) {
            const int64_t place = (t * n + i) * V;
            vf factor = exp2_(step * rate[i]), rest = factor * h[i];
            store(decay + place, factor);
            store(kept + place, rest);
            h[i] = input * bt[i] + rest;
            store(grad_c + place, gy * h[i] + load(grad_c + place));
        }
    }
    UNROLL for (int i = 0; i < n; i++) {
        h[i] = load(adjoint + i * V);
        total[i] = (vf){0};
    }
    for (int t = count - 1; t >= 0; t--) {
        const float *bt = b[t], *ct = bt + c_offset;
        vf step = load(v->dt + t * V), input = load(v->weighted + t * V), gy = load(v->grad_y + t * V);
        vf grad_weighted = load(v->grad_weighted + t * V), grad_dt = load(v->grad_dt + t * V);
        UNROLL for (int i = 0; i < n; i++) {
            const int64_t place = (t * n + i) * V;
            vf g = gy * ct[i] + h[i];
            store(grad_b + place, g * input + load(grad_b + place));
            grad_weighted += g * bt[i];
            vf exponent = g * load(kept + place);
            grad_dt += exponent * rate[i];
            total[i] += exponent * step;
            h[i] = g * load(decay + place);
        }
        store(v->grad_weighted + t * V, grad_weighted);
        store(v->grad_dt + t * V, grad_dt);
    }
    UNROLL for (int i = 0; i < n; i++) {
        store(adjoint + i * V, h[i]);
        store(grad_a + i * V, load(grad_a + i * V) + total[i]);
    }
}

int JOIN(semillie_backward, SEMILLIE_SUFFIX)(const struct semillie_scan *p, int64_t item) {
    struct range r = find_range(p, item);
    const int64_t N = p->states, R = p->rank, P = R + 2 * N;
    struct arena arena;
    if (reserve(&arena, r.blocks * (3 * N + 2 * R + 4 + 7 * T) + T * (4 * BACKWARD_STATES + R))) return 1;
    struct weights w = {take(&arena, r.blocks * N), take(&arena, r.blocks * R), take(&arena, r.blocks),
                        take(&arena, r.blocks)};
    float *adjoint = take(&arena, r.blocks * N), *grad_a = take(&arena, r.blocks * N);
    float *grad_w = take(&arena, r.blocks * R), *grad_bias = take(&arena, r.blocks), *grad_d = take(&arena, r.blocks);
    float *values = take(&arena, r.blocks * 7 * T);
    float *decay = take(&arena, T * BACKWARD_STATES), *kept = take(&arena, T * BACKWARD_STATES),
          *grad_b = take(&arena, T * BACKWARD_STATES), *grad_c = take(&arena, T * BACKWARD_STATES),
          *grad_low = take(&arena, T * R);
    const float *b[T];
    int64_t places[2][T], *at = places[0], *next = places[1];
    uint64_t mode = flush_denormals();

    for (int64_t g = r.group; g <= r.last_group; g++) {
        const int64_t offset = r.first + (p->image ? 0 : g * p->channels);
        const int64_t base = r.batch * r.tokens * r.stride + offset;
        const int add = g > r.group;
        float *grad_u = p->grad_u + base;
        const int64_t owner = (r.batch * p->groups + g) * p->channels + r.first;
        prepare(p, &r, g, &w);
        for (int64_t k = 0; k < r.blocks; k++)
            gather(adjoint + k * N * V, p->grad_last ? p->grad_last + (owner + k * V) * N : NULL, N,
                   lanes_of(p, r.first + k * V), 1);
        memset(grad_a, 0, (size_t)(r.blocks * N * V) * sizeof *grad_a);
        memset(grad_w, 0, (size_t)(r.blocks * R * V) * sizeof *grad_w);
        memset(grad_bias, 0, (size_t)(r.blocks * V) * sizeof *grad_bias);
        memset(grad_d, 0, (size_t)(r.blocks * V) * sizeof *grad_d);

        int next_count = find_tokens(p, &r, g, r.tiles - 1, next);
        for (int64_t tile = r.tiles - 1; tile >= 0; tile--) {
            int64_t *spare = at;
            int count = next_count;
            at = next, next = spare;
            next_count = tile ? find_tokens(p, &r, g, tile - 1, next) : 0;
            for (int t = 0; t < count; t++) b[t] = p->projection + (r.batch * r.tokens + at[t]) * r.row + g * P + R;
#define VALUES(k)                                                                                        \
    struct token_values v = {values + ((k) * 7 + 0) * T * V, values + ((k) * 7 + 1) * T * V,              \
                             values + ((k) * 7 + 2) * T * V, values + ((k) * 7 + 3) * T * V,              \
                             values + ((k) * 7 + 4) * T * V, values + ((k) * 7 + 5) * T * V,              \
                             values + ((k) * 7 + 6) * T * V}
            for (int64_t k = 0; k < r.blocks; k++) {
                const int64_t lanes = lanes_of(p, r.first + k * V);
                const vf bias = load(w.bias + k * V);
                VALUES(k);
                for (int t = 0; t < count; t++) {
                    const int64_t place = base + at[t] * r.stride + k * V;
                    if (k + 1 < r.blocks) {
                        __builtin_prefetch(p->u + place + V);
                        __builtin_prefetch(p->grad_y + place + V);
                    } else if (t < next_count) {
                        __builtin_prefetch(p->u + base + next[t] * r.stride);
                        __builtin_prefetch(p->grad_y + base + next[t] * r.stride);
                        fetch_row(p, p->projection + (r.batch * r.tokens + next[t]) * r.row + g * P, P);
                    }
                    vf x = load_part(p->u + place, lanes), slope;
                    vf step = step_size(p, b[t] - R, p->delta ? p->delta + place : NULL, lanes, w.dt + k * R * V,
                                        bias, &slope);
                    store(v.u + t * V, x);
                    store(v.dt + t * V, step);
                    store(v.weighted + t * V, step * x);
                    store(v.slope + t * V, slope);
                    store(v.grad_y + t * V, load_part(p->grad_y + place, lanes));
                    store(v.grad_weighted + t * V, (vf){0});
                    store(v.grad_dt + t * V, (vf){0});
                }
            }

            const float *saved =
                p->checkpoints + ((r.batch * p->groups + g) * r.tiles + tile) * N * p->channels + r.first;
            float *grad_row = p->grad_projection + ((r.part * p->batch + r.batch) * r.tokens) * r.row + g * P;
            int64_t n = 0;
#define BACKWARD(size)                                                                                       \
    for (; N - n >= size; n += size) {                                                                       \
        memset(grad_b, 0, sizeof(float) * (size_t)(T * size * V));                                           \
        memset(grad_c, 0, sizeof(float) * (size_t)(T * size * V));                                           \
        for (int64_t k = 0; k < r.blocks; k++) {                                                             \
            VALUES(k);                                                                                       \
            backward_states(size, count, w.a + (k * N + n) * V, saved + n * p->channels + k * V, p->channels, \
                            lanes_of(p, r.first + k * V), adjoint + (k * N + n) * V,                         \
                            grad_a + (k * N + n) * V, &v, b, N, decay, kept, grad_b, grad_c);                \
        }                                                                                                    \
        for (int t = 0; t < count; t++) {                                                                    \
            float *to = grad_row + at[t] * r.row + R + n;                                                    \
            if (size == 4) {                                                                                 \
                sum4(to, grad_b + t * 4 * V);                                                                \
                sum4(to + N, grad_c + t * 4 * V);                                                            \
            } else {                                                                                         \
                *to = sum(load(grad_b + t * V));                                                             \
                to[N] = sum(load(grad_c + t * V));                                                           \
            }                                                                                                \
            b[t] += size;                                                                                    \
        }                                                                                                    \
    }
            BACKWARD(BACKWARD_STATES)
            BACKWARD(1)

            memset(grad_low, 0, sizeof(float) * (size_t)(T * R * V));
            for (int t = 0; t < count; t++)
                for (int64_t k = 0; k < r.blocks; k++) __builtin_prefetch(grad_u + at[t] * r.stride + k * V, 1);
            for (int64_t k = 0; k < r.blocks; k++) {
                const int64_t lanes = lanes_of(p, r.first + k * V);
                const vf d = load(w.d + k * V);
                vf bias_total = {0}, d_total = {0};
                VALUES(k);
                for (int t = 0; t < count; t++) {
                    const int64_t place = at[t] * r.stride + k * V;
                    vf x = load(v.u + t * V), gy = load(v.grad_y + t * V), gw = load(v.grad_weighted + t * V);
                    vf grad_raw = (load(v.grad_dt + t * V) * LN_2 + gw * x) * load(v.slope + t * V);
                    vf gu = gw * load(v.dt + t * V) + d * gy;
                    float *to = grad_u + place;
                    store_part(to, add ? load_part(to, lanes) + gu : gu, lanes);
                    if (p->grad_delta) store_part(p->grad_delta + base + place, grad_raw, lanes);
                    bias_total += grad_raw;
                    d_total += gy * x;
                    store(v.grad_dt + t * V, grad_raw);
                }
                store(grad_bias + k * V, load(grad_bias + k * V) + bias_total);
                store(grad_d + k * V, load(grad_d + k * V) + d_total);
                for (int64_t i = 0; i < R; i++) {
                    const vf weight = load(w.dt + (k * R + i) * V);
                    vf total = {0};
                    for (int t = 0; t < count; t++) {
                        vf grad_raw = load(v.grad_dt + t * V);
                        total += grad_raw * b[t][i - R - N];
                        store(grad_low + (i * T + t) * V, load(grad_low + (i * T + t) * V) + grad_raw * weight);
                    }
                    store(grad_w + (k * R + i) * V, load(grad_w + (k * R + i) * V) + total);
                }
            }
            for (int t = 0; t < count; t++)
                for (int64_t i = 0; i < R; i++) grad_row[at[t] * r.row + i] = sum(load(grad_low + (i * T + t) * V));
        }
        for (int64_t k = 0; k < r.blocks; k++) {
            const int64_t lanes = lanes_of(p, r.first + k * V), c = owner + k * V;
            scatter(p->grad_a + c * N, grad_a + k * N * V, N, lanes);
            if (p->grad_dt_weight) scatter(p->grad_dt_weight + c * R, grad_w + k * R * V, R, lanes);
            if (p->grad_dt_bias) scatter(p->grad_dt_bias + c, grad_bias + k * V, 1, lanes);
            if (p->grad_d) scatter(p->grad_d + c, grad_d + k * V, 1, lanes);
        }
    }
    restore_mode(mode);
    free(arena.base);
    return 0;
}

int64_t JOIN(semillie_lanes, SEMILLIE_SUFFIX)(void) { return V; }

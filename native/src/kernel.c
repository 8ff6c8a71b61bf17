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
/* Tokens taken together in the forward pass: their values for all channels should stay in the nearest cache. */
#define F 16
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
/* Channel vectors treated together in the backward pass: their lanes share the sums over channels. */
#define BACKWARD_BLOCKS (V >= 8 ? 2 : 1)
/* Tokens between the use of a place in memory and its prefetch: columns are strided by whole image rows, which the
   hardware does not foresee, and more than a few of them at once would displace each other from the cache. */
#define AHEAD 8

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

typedef float v4 __attribute__((vector_size(16)));

/* Sums of four vectors, folded together: two halves of different vectors share one addition. */
INLINE v4 sum4(vf a, vf b, vf c, vf d) {
#define FOLD(x, y, low, high) (__builtin_shufflevector(x, y, LIST low) + __builtin_shufflevector(x, y, LIST high))
#define LIST(...) __VA_ARGS__
#if V == 16
#define LOW (0, 1, 2, 3, 4, 5, 6, 7, 24, 25, 26, 27, 28, 29, 30, 31)
#define HIGH (8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23)
    vf ab = FOLD(a, b, LOW, HIGH), cd = FOLD(c, d, LOW, HIGH);
    vf all = FOLD(ab, cd, (0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27),
                  (4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31));
    all += __builtin_shufflevector(all, all, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    all += __builtin_shufflevector(all, all, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
    return __builtin_shufflevector(all, all, 0, 4, 8, 12);
#elif V == 8
#define LOW (0, 1, 2, 3, 8, 9, 10, 11)
#define HIGH (4, 5, 6, 7, 12, 13, 14, 15)
    vf ab = FOLD(a, b, LOW, HIGH), cd = FOLD(c, d, LOW, HIGH);
    vf all = FOLD(ab, cd, (0, 1, 8, 9, 4, 5, 12, 13), (2, 3, 10, 11, 6, 7, 14, 15));
    all += __builtin_shufflevector(all, all, 1, 0, 3, 2, 5, 4, 7, 6);
    return __builtin_shufflevector(all, all, 0, 4, 2, 6);
#else
#define LOW (0, 1, 4, 5)
#define HIGH (2, 3, 6, 7)
    vf ab = FOLD(a, b, LOW, HIGH), cd = FOLD(c, d, LOW, HIGH);
    return FOLD(ab, cd, (0, 2, 4, 6), (1, 3, 5, 7));
#endif
#undef FOLD
#undef LIST
#undef LOW
#undef HIGH
}

/* Add the lane sums of `n` vectors (4 or 1) to consecutive floats, or start them. */
INLINE void put_sums(float *to, int n, const vf *v, int add) {
    if (n == 4) {
        v4 old = {0}, total = sum4(v[0], v[1], v[2], v[3]);
        if (add) memcpy(&old, to, sizeof old);
        total += old;
        memcpy(to, &total, sizeof total);
    } else {
        *to = sum(*v) + (add ? *to : 0.0f);
    }
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
    int64_t batch;
    int64_t piece, part, last_part; /* one piece, its parts */
    int64_t group, last_group;   /* recurrences, one after the other: all of an image, one of a sequence */
    int64_t first, blocks;       /* first channel, number of vectors */
    int64_t tokens, tiles, row;  /* row: floats in a projection row */
    int64_t stride;              /* floats from token to token in u and y */
};

/* First channel vector of a part. */
INLINE int64_t part_start(const struct semillie_scan *p, int64_t part) {
    return part * ((p->channels + V - 1) / V) / p->parts;
}

INLINE struct range find_range(const struct semillie_scan *p, int64_t item) {
    struct range r;
    int64_t chains = p->image ? 1 : p->groups, together = p->parts / p->pieces;
    r.piece = item % p->pieces;
    r.part = r.piece * together;
    r.last_part = r.part + together - 1;
    r.group = p->image ? 0 : item / p->pieces % chains;
    r.last_group = p->image ? p->groups - 1 : r.group;
    r.batch = item / p->pieces / chains;
    int64_t begin = part_start(p, r.part);
    r.first = begin * V;
    r.blocks = part_start(p, r.last_part + 1) - begin;
    r.tokens = p->height * p->width;
    r.tiles = (r.tokens + T - 1) / T;
    r.row = p->groups * (p->rank + 2 * p->states);
    r.stride = p->image ? p->channels : p->groups * p->channels;
    return r;
}

/* Index in memory of the tokens at steps [begin, begin + size) of a recurrence; returns how many there are. */
static int find_tokens(const struct semillie_scan *p, const struct range *r, int64_t g, int64_t begin, int64_t size,
                       int64_t *at) {
    if (begin < 0 || begin >= r->tokens) return 0;
    int count = (int)(r->tokens - begin < size ? r->tokens - begin : size);
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

#define FETCH(start, floats, write)                                                        \
    do {                                                                                   \
        const float *fetched = (start);                                                    \
        for (int64_t f = 0; f < (floats); f += 16) __builtin_prefetch(fetched + f, write); \
    } while (0)

/* The token AHEAD places after `t`, which may be one of the next tile. */
INLINE int64_t ahead(int t, const int64_t *at, int count, const int64_t *next, int next_count) {
    const int place = t + AHEAD;
    if (place < count) return at[place];
    return place - count < next_count ? next[place - count] : at[count - 1];
}

/* Per-token values of a channel vector in the forward pass: dt, dt * u and y side by side; in front of the next
   channel vector's lies one vector more, because equal distances of whole pages would share few cache lines. */
enum { INPUTS = 3, INPUT_STRIDE = INPUTS * F + 1 };

/* Advance `n` states over a tile, adding <C, h> to y. `b` points at B in the first of `count` rows of `row` floats. */
INLINE void forward_states(int n, int count, const float *a, float *state, float *values, const float *b, int64_t row,
                           int64_t c_offset) {
    vf h[16];
    UNROLL for (int i = 0; i < n; i++) h[i] = load(state + i * V);
    for (int t = 0; t < count; t++) {
        const float *bt = b + t * row, *ct = bt + c_offset;
        float *v = values + t * INPUTS * V;
        vf step = load(v), input = load(v + V), out = load(v + 2 * V), out2 = {0};
        UNROLL for (int i = 0; i < n; i++) {
            h[i] = exp2_(step * load(a + i * V)) * h[i] + input * bt[i];
            if (i & 1)
                out2 += h[i] * ct[i];
            else
                out += h[i] * ct[i];
        }
        store(v + 2 * V, out + out2);
    }
    UNROLL for (int i = 0; i < n; i++) store(state + i * V, h[i]);
}

int JOIN(semillie_forward, SEMILLIE_SUFFIX)(const struct semillie_scan *p, int64_t item) {
    struct range r = find_range(p, item);
    const int64_t N = p->states, R = p->rank, P = R + 2 * N;
    struct arena arena;
    if (reserve(&arena, r.blocks * (2 * N + R + 2 + INPUT_STRIDE) + F * P / V + 1)) return 1;
    struct weights w = {take(&arena, r.blocks * N), take(&arena, r.blocks * R), take(&arena, r.blocks),
                        take(&arena, r.blocks)};
    float *state = take(&arena, r.blocks * N), *values = take(&arena, r.blocks * INPUT_STRIDE),
          *rows = take(&arena, F * P / V + 1);
    int64_t places[2][F], *at = places[0], *next = places[1];
    uint64_t mode = flush_denormals();

    for (int64_t g = r.group; g <= r.last_group; g++) {
        const int64_t offset = r.first + (p->image ? 0 : g * p->channels);
        const float *u = p->u + r.batch * r.tokens * r.stride + offset;
        const float *delta = p->delta ? p->delta + r.batch * r.tokens * r.stride + offset : NULL;
        const float *projection = p->projection + r.batch * r.tokens * r.row + g * P;
        float *out = p->y + r.batch * r.tokens * r.stride + offset;
        const int add = g > r.group;
        prepare(p, &r, g, &w);
        memset(state, 0, (size_t)(r.blocks * N * V) * sizeof *state);
        int next_count = find_tokens(p, &r, g, 0, F, next);
        for (int64_t begin = 0; begin < r.tokens; begin += F) {
            int64_t *spare = at;
            int count = next_count;
            at = next, next = spare;
            next_count = find_tokens(p, &r, g, begin + F, F, next);
            for (int t = 0; t < count; t++) {
                const int64_t far = ahead(t, at, count, next, next_count);
                float *row = rows + t * P;
                FETCH(u + far * r.stride, r.blocks * V, 0);
                FETCH(projection + far * r.row, P, 0);
                memcpy(row, projection + at[t] * r.row, (size_t)P * sizeof *row);
                for (int64_t k = 0; k < r.blocks; k++) {
                    const int64_t lanes = lanes_of(p, r.first + k * V), place = at[t] * r.stride + k * V;
                    float *v = values + (k * INPUT_STRIDE + t * INPUTS) * V;
                    vf x = load_part(u + place, lanes);
                    vf step = step_size(p, row, delta ? delta + place : NULL, lanes, w.dt + k * R * V,
                                        load(w.bias + k * V), NULL);
                    store(v, step);
                    store(v + V, step * x);
                    store(v + 2 * V, load(w.d + k * V) * x);
                }
            }
            for (int64_t k = 0; k < r.blocks; k++) {
                float *h = state + k * N * V, *v = values + k * INPUT_STRIDE * V;
                const float *a = w.a + k * N * V;
                for (int64_t t = k * F / r.blocks; t < (k + 1) * F / r.blocks; t++) {
                    if (t < count) FETCH(out + at[t] * r.stride, r.blocks * V, 1);
                    if (t < next_count) {
                        FETCH(u + next[t] * r.stride, r.blocks * V, 0);
                        FETCH(projection + next[t] * r.row, P, 0);
                    }
                }
                if (p->checkpoints && begin % T == 0) {
                    const int64_t channel = r.first + k * V;
                    float *save = p->checkpoints +
                                  (((r.batch * p->groups + g) * r.tiles + begin / T) * N) * p->channels + channel;
                    for (int64_t n = 0; n < N; n++)
                        store_part(save + n * p->channels, load(h + n * V), lanes_of(p, channel));
                }
                int64_t n = 0;
#define FORWARD(size)                \
    for (; N - n >= size; n += size) \
        forward_states(size, count, a + n * V, h + n * V, v, rows + R + n, P, N);
#if FORWARD_STATES >= 16
                FORWARD(16)
#endif
                FORWARD(8)
                FORWARD(4)
                FORWARD(1)
            }
            for (int t = 0; t < count; t++) {
                float *to = out + at[t] * r.stride;
                if (t + AHEAD < count) FETCH(out + at[t + AHEAD] * r.stride, r.blocks * V, 1);
                for (int64_t k = 0; k < r.blocks; k++) {
                    const int64_t lanes = lanes_of(p, r.first + k * V);
                    vf value = load(values + (k * INPUT_STRIDE + t * INPUTS + 2) * V);
                    store_part(to + k * V, add ? load_part(to + k * V, lanes) + value : value, lanes);
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

/* The same in the backward pass. */
enum { U, DT, WEIGHTED, SLOPE, GRAD_Y, GRAD_WEIGHTED, GRAD_DT, VALUES, VALUE_STRIDE = VALUES * T + 1 };

/*
 * Gradients through `n` states of `blocks` channel vectors over a tile. The arrays of a vector follow those of the
 * one before: `values` by VALUE_STRIDE, `a`, `adjoint` and `grad_a` by `states`, `saved` by 1. `work` holds exp(dt A)
 * and exp(dt A) h_{t-1} of every token. The gradients of B and C are summed over the vectors' lanes and go to `grads`.
 */
INLINE void backward_states(int blocks, int n, int count, int64_t states, const float *a, const float *saved,
                            int64_t saved_stride, const int64_t *lanes, float *adjoint, float *grad_a, float *values,
                            const float *b, float *grads, int64_t row, int add, float *work) {
    vf h[BACKWARD_BLOCKS][BACKWARD_STATES], total[BACKWARD_BLOCKS][BACKWARD_STATES];
#define RATE load(a + (j * states + i) * V)
#define VALUE(name) (values + (j * VALUE_STRIDE + t * VALUES + name) * V)
    UNROLL for (int j = 0; j < blocks; j++)
        UNROLL for (int i = 0; i < n; i++) h[j][i] = load_part(saved + i * saved_stride + j * V, lanes[j]);
    for (int t = 0; t < count; t++) {
        const float *bt = b + t * row;
        float *to = work + t * blocks * n * 2 * V;
        vf grad_c[BACKWARD_STATES];
        UNROLL for (int j = 0; j < blocks; j++) {
            vf step = load(VALUE(DT)), input = load(VALUE(WEIGHTED)), gy = load(VALUE(GRAD_Y));
            UNROLL for (int i = 0; i < n; i++) {
                vf factor = exp2_(step * RATE), rest = factor * h[j][i];
                store(to + (j * n + i) * 2 * V, factor);
                store(to + (j * n + i) * 2 * V + V, rest);
                h[j][i] = input * bt[i] + rest;
                grad_c[i] = j ? gy * h[j][i] + grad_c[i] : gy * h[j][i];
            }
        }
        put_sums(grads + t * row + states, n, grad_c, add);
    }
    UNROLL for (int j = 0; j < blocks; j++)
        UNROLL for (int i = 0; i < n; i++) {
            h[j][i] = load(adjoint + (j * states + i) * V);
            total[j][i] = (vf){0};
        }
    for (int t = count - 1; t >= 0; t--) {
        const float *bt = b + t * row, *ct = bt + states, *from = work + t * blocks * n * 2 * V;
        vf grad_b[BACKWARD_STATES];
        UNROLL for (int j = 0; j < blocks; j++) {
            vf step = load(VALUE(DT)), input = load(VALUE(WEIGHTED)), gy = load(VALUE(GRAD_Y));
            vf grad_weighted = load(VALUE(GRAD_WEIGHTED)), grad_dt = load(VALUE(GRAD_DT));
            UNROLL for (int i = 0; i < n; i++) {
                vf g = gy * ct[i] + h[j][i];
                grad_b[i] = j ? g * input + grad_b[i] : g * input;
                grad_weighted += g * bt[i];
                vf exponent = g * load(from + (j * n + i) * 2 * V + V);
                grad_dt += exponent * RATE;
                total[j][i] += exponent * step;
                h[j][i] = g * load(from + (j * n + i) * 2 * V);
            }
            store(VALUE(GRAD_WEIGHTED), grad_weighted);
            store(VALUE(GRAD_DT), grad_dt);
        }
        put_sums(grads + t * row, n, grad_b, add);
    }
    UNROLL for (int j = 0; j < blocks; j++)
        UNROLL for (int i = 0; i < n; i++) {
            const int64_t place = (j * states + i) * V;
            store(adjoint + place, h[j][i]);
            store(grad_a + place, load(grad_a + place) + total[j][i]);
        }
}

/* Gradients of `n` low-rank step sizes, from dt's gradient before softplus in GRAD_DT; layout as above. */
INLINE void backward_rank(int blocks, int n, int count, int64_t rank, const float *weight, float *grad_w,
                          const float *values, const float *low, float *grads, int64_t row, int add) {
    vf w[BACKWARD_BLOCKS][4], total[BACKWARD_BLOCKS][4];
    UNROLL for (int j = 0; j < blocks; j++)
        UNROLL for (int i = 0; i < n; i++) {
            w[j][i] = load(weight + (j * rank + i) * V);
            total[j][i] = (vf){0};
        }
    for (int t = 0; t < count; t++) {
        vf grad_low[4];
        UNROLL for (int j = 0; j < blocks; j++) {
            vf grad = load(VALUE(GRAD_DT));
            UNROLL for (int i = 0; i < n; i++) {
                total[j][i] += grad * low[t * row + i];
                grad_low[i] = j ? grad * w[j][i] + grad_low[i] : grad * w[j][i];
            }
        }
        put_sums(grads + t * row, n, grad_low, add);
    }
    UNROLL for (int j = 0; j < blocks; j++)
        UNROLL for (int i = 0; i < n; i++) {
            float *to = grad_w + (j * rank + i) * V;
            store(to, load(to) + total[j][i]);
        }
}

/* From the gradients of dt * u and dt those of u, which takes the place of the first, and of dt before softplus. */
static void finish_tokens(int count, vf d, float *values, float *grad_bias, float *grad_d) {
    const int j = 0;
    vf bias_total = {0}, d_total = {0};
    for (int t = 0; t < count; t++) {
        vf x = load(VALUE(U)), gy = load(VALUE(GRAD_Y)), gw = load(VALUE(GRAD_WEIGHTED));
        /* Decay rates carry a factor log2(e). */
        vf grad_raw = (load(VALUE(GRAD_DT)) * LN_2 + gw * x) * load(VALUE(SLOPE));
        store(VALUE(GRAD_DT), grad_raw);
        store(VALUE(GRAD_WEIGHTED), gw * load(VALUE(DT)) + d * gy);
        bias_total += grad_raw;
        d_total += gy * x;
    }
    store(grad_bias, load(grad_bias) + bias_total);
    store(grad_d, load(grad_d) + d_total);
}
#undef RATE
#undef VALUE

int JOIN(semillie_backward, SEMILLIE_SUFFIX)(const struct semillie_scan *p, int64_t item) {
    struct range r = find_range(p, item);
    const int64_t N = p->states, R = p->rank, P = R + 2 * N;
    struct arena arena;
    int64_t levels = 1; /* sums of 1, 2, 4, ... parts that wait for their other half */
    for (int64_t parts = r.last_part - r.part + 1; parts > 1; parts /= 2) levels++;
    if (reserve(&arena, r.blocks * (3 * N + 2 * R + 4 + VALUE_STRIDE) + T * 2 * BACKWARD_BLOCKS * BACKWARD_STATES +
                            (1 + levels) * T * P / V))
        return 1;
    struct weights w = {take(&arena, r.blocks * N), take(&arena, r.blocks * R), take(&arena, r.blocks),
                        take(&arena, r.blocks)};
    float *adjoint = take(&arena, r.blocks * N), *grad_a = take(&arena, r.blocks * N);
    float *grad_w = take(&arena, r.blocks * R), *grad_bias = take(&arena, r.blocks), *grad_d = take(&arena, r.blocks);
    float *values = take(&arena, r.blocks * VALUE_STRIDE);
    float *work = take(&arena, T * 2 * BACKWARD_BLOCKS * BACKWARD_STATES);
    float *rows = take(&arena, T * P / V), *grads = take(&arena, levels * T * P / V);
    int64_t places[2][T], *at = places[0], *next = places[1];
    uint64_t mode = flush_denormals();

    for (int64_t g = r.group; g <= r.last_group; g++) {
        const int64_t offset = r.first + (p->image ? 0 : g * p->channels);
        const int64_t base = r.batch * r.tokens * r.stride + offset;
        const float *projection = p->projection + r.batch * r.tokens * r.row + g * P;
        const float *u = p->u + base, *grad_y = p->grad_y + base;
        float *grad_u = p->grad_u + base;
        const int add = g > r.group;
        const int64_t owner = (r.batch * p->groups + g) * p->channels + r.first;
        float *grad_rows = p->grad_projection + (r.piece * p->batch + r.batch) * r.tokens * r.row + g * P;
        prepare(p, &r, g, &w);
        for (int64_t k = 0; k < r.blocks; k++)
            gather(adjoint + k * N * V, p->grad_last ? p->grad_last + (owner + k * V) * N : NULL, N,
                   lanes_of(p, r.first + k * V), 1);
        memset(grad_a, 0, (size_t)(r.blocks * N * V) * sizeof *grad_a);
        memset(grad_w, 0, (size_t)(r.blocks * R * V) * sizeof *grad_w);
        memset(grad_bias, 0, (size_t)(r.blocks * V) * sizeof *grad_bias);
        memset(grad_d, 0, (size_t)(r.blocks * V) * sizeof *grad_d);

        int next_count = find_tokens(p, &r, g, (r.tiles - 1) * T, T, next);
        for (int64_t tile = r.tiles - 1; tile >= 0; tile--) {
            int64_t *spare = at;
            int count = next_count;
            at = next, next = spare;
            next_count = find_tokens(p, &r, g, (tile - 1) * T, T, next);
            for (int t = 0; t < count; t++) {
                const int64_t far = ahead(t, at, count, next, next_count);
                float *row = rows + t * P;
                FETCH(u + far * r.stride, r.blocks * V, 0);
                FETCH(grad_y + far * r.stride, r.blocks * V, 0);
                FETCH(projection + far * r.row, P, 0);
                memcpy(row, projection + at[t] * r.row, (size_t)P * sizeof *row);
                for (int64_t k = 0; k < r.blocks; k++) {
                    const int64_t lanes = lanes_of(p, r.first + k * V), place = at[t] * r.stride + k * V;
                    float *v = values + (k * VALUE_STRIDE + t * VALUES) * V;
                    vf x = load_part(u + place, lanes), slope;
                    vf step = step_size(p, row, p->delta ? p->delta + base + place : NULL, lanes, w.dt + k * R * V,
                                        load(w.bias + k * V), &slope);
                    store(v + U * V, x);
                    store(v + DT * V, step);
                    store(v + WEIGHTED * V, step * x);
                    store(v + SLOPE * V, slope);
                    store(v + GRAD_Y * V, load_part(grad_y + place, lanes));
                    store(v + GRAD_WEIGHTED * V, (vf){0});
                    store(v + GRAD_DT * V, (vf){0});
                }
            }

            const float *saved =
                p->checkpoints + ((r.batch * p->groups + g) * r.tiles + tile) * N * p->channels + r.first;
#define FETCH_SLICE(turn, turns)                                                                \
    for (int64_t t = turn * T / (r.blocks * N); t < (turn + turns) * T / (r.blocks * N); t++) { \
        if (t < count) {                                                                        \
            FETCH(grad_u + at[t] * r.stride, r.blocks * V, 1);                                  \
            FETCH(grad_rows + at[t] * r.row, P, 1);                                             \
        }                                                                                       \
        if (t < next_count) {                                                                   \
            FETCH(u + next[t] * r.stride, r.blocks * V, 0);                                     \
            FETCH(grad_y + next[t] * r.stride, r.blocks * V, 0);                                \
            FETCH(projection + next[t] * r.row, P, 0);                                          \
        }                                                                                       \
    }
#define STATES(many, size)                                                                                         \
    for (; N - n >= size; n += size, turn += many * size) {                                                        \
        FETCH_SLICE(turn, many * size)                                                                             \
        backward_states(many, size, count, N, w.a + (k * N + n) * V, saved + n * p->channels + k * V, p->channels, \
                        lanes, adjoint + (k * N + n) * V, grad_a + (k * N + n) * V, v, rows + R + n, sums + R + n, \
                        P, k > begin, work);                                                                       \
    }
#define RANK(many, size)                                                                                   \
    for (; R - n >= size; n += size)                                                                       \
        backward_rank(many, size, count, R, w.dt + (k * R + n) * V, grad_w + (k * R + n) * V, v, rows + n, \
                      sums + n, P, k > begin);
#define BACKWARD(many)                                                                                       \
    for (; end - k >= many; k += many) {                                                                     \
        float *v = values + k * VALUE_STRIDE * V;                                                            \
        int64_t lanes[many], n = 0;                                                                          \
        for (int j = 0; j < many; j++) lanes[j] = lanes_of(p, r.first + (k + j) * V);                        \
        STATES(many, BACKWARD_STATES)                                                                        \
        STATES(many, 1)                                                                                      \
        for (int j = 0; j < many; j++)                                                                       \
            finish_tokens(count, load(w.d + (k + j) * V), v + j * VALUE_STRIDE * V, grad_bias + (k + j) * V, \
                          grad_d + (k + j) * V);                                                             \
        n = 0;                                                                                               \
        RANK(many, 4)                                                                                        \
        RANK(many, 1)                                                                                        \
    }
            /* Sums over channels go by part, in pairs, whatever a piece is. */
            int64_t turn = 0;
            float *sums = grads;
            for (int64_t part = r.part; part <= r.last_part; part++) {
                const int64_t begin = part_start(p, part) - r.first / V, end = part_start(p, part + 1) - r.first / V;
                int64_t k = begin;
#if BACKWARD_BLOCKS > 1
                BACKWARD(BACKWARD_BLOCKS)
#endif
                BACKWARD(1)
                for (int64_t done = part - r.part + 1; part == r.last_part ? sums > grads : !(done & 1); done /= 2) {
                    const float *other = sums;
                    sums -= T * P;
                    for (int64_t i = 0; i < count * P; i += V) store(sums + i, load(sums + i) + load(other + i));
                }
                sums += T * P;
            }

            for (int t = 0; t < count; t++) {
                float *to = grad_u + at[t] * r.stride, *row = grad_rows + at[t] * r.row;
                if (t + AHEAD < count) {
                    FETCH(grad_u + at[t + AHEAD] * r.stride, r.blocks * V, 1);
                    FETCH(grad_rows + at[t + AHEAD] * r.row, P, 1);
                }
                memcpy(row, grads + t * P, (size_t)P * sizeof *row);
                for (int64_t k = 0; k < r.blocks; k++) {
                    const int64_t lanes = lanes_of(p, r.first + k * V);
                    const float *v = values + (k * VALUE_STRIDE + t * VALUES) * V;
                    vf value = load(v + GRAD_WEIGHTED * V);
                    store_part(to + k * V, add ? load_part(to + k * V, lanes) + value : value, lanes);
                    if (p->grad_delta)
                        store_part(p->grad_delta + base + at[t] * r.stride + k * V, load(v + GRAD_DT * V), lanes);
                }
            }
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

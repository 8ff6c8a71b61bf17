/* C ABI of the selective scan. Single-threaded by itself: callers share out `items` among their own threads. */
#ifndef SEMILLIE_SCAN_H
#define SEMILLIE_SCAN_H

#include <stdint.h>

#if defined(_WIN32)
#define SEMILLIE_API __declspec(dllexport)
#else
#define SEMILLIE_API __attribute__((visibility("default")))
#endif

/* Raised whenever struct semillie_scan changes. */
#define SEMILLIE_SCAN_ABI 5
/* Tokens per tile; the forward pass can save one state per tile. */
#define SEMILLIE_SCAN_TILE 64

enum semillie_isa { SEMILLIE_AUTO = 0, SEMILLIE_BASE = 1, SEMILLIE_AVX2 = 2, SEMILLIE_AVX512 = 3 };

/*
 * One problem: `groups` independent recurrences over `batch` images, each with its own channels, float32.
 *
 * image = 1: four recurrences walk the same (height, width, channels) image row-major, column-major and in the
 *            reverse of each, and their outputs add up.
 * image = 0: recurrence g walks channels [g * channels, (g + 1) * channels) of a (width, groups * channels)
 *            sequence; height is 1.
 *
 * A projection row holds, per recurrence, `rank` low-rank step sizes, then B and C with `states` values each.
 * With `delta`, step sizes come from it instead (rank 0). Null pointers: delta, dt_weight, dt_bias, d,
 * checkpoints, last_state, grad_last, and the gradients that belong to a null input.
 */
struct semillie_scan {
    int64_t isa, batch, height, width, channels, states, rank, groups, image, softplus;
    /* Channels are cut into `parts` ranges of whole vectors, none of them empty in the backward pass, and the parts are
       shared out to `pieces` equal runs of neighbours; an item is one (batch, piece) of images or one (batch,
       recurrence, piece) of sequences. Gradients that are summed over channels (grad_projection) come out once per
       piece: neighbouring parts added in pairs, the pairs in pairs and so on, so that adding up the pieces likewise
       gives the same sum for 1, 2, 4, ... parts a piece. */
    int64_t parts, pieces;
    const float *u;          /* (batch, tokens, channels), groups * channels for a sequence */
    const float *projection; /* (batch, tokens, groups, rank + 2 * states) */
    const float *delta;      /* like u */
    const float *dt_weight;  /* (groups, channels, rank) */
    const float *dt_bias;    /* (groups, channels) */
    const float *a;          /* (groups, channels, states), decay rates */
    const float *d;          /* (groups, channels) */
    float *y;                /* like u */
    float *checkpoints;      /* (batch, groups, tiles, states, channels): state before each tile */
    float *last_state;       /* (batch, groups, channels, states) */
    const float *grad_y;     /* like u */
    const float *grad_last;  /* like last_state */
    float *grad_u;           /* like u */
    float *grad_projection;  /* (pieces, batch, tokens, groups, rank + 2 * states) */
    float *grad_delta;       /* like u */
    float *grad_dt_weight;   /* (batch, groups, channels, rank) */
    float *grad_dt_bias;     /* (batch, groups, channels) */
    float *grad_a;           /* (batch, groups, channels, states) */
    float *grad_d;           /* (batch, groups, channels) */
};

SEMILLIE_API int64_t semillie_scan_abi(void);
SEMILLIE_API int64_t semillie_scan_tile(void);
/* Best instruction set of this machine that the library has code for. */
SEMILLIE_API int64_t semillie_scan_isa(void);
/* Channels are processed in multiples of this many floats. */
SEMILLIE_API int64_t semillie_scan_lanes(int64_t isa);
/* Ask the system to back a fresh buffer with large pages (Linux; elsewhere nothing happens). */
SEMILLIE_API void semillie_scan_use_large_pages(void *start, int64_t bytes);
/* Both return 0, or 1 when scratch memory cannot be allocated. */
SEMILLIE_API int semillie_scan_forward(const struct semillie_scan *p, int64_t item);
SEMILLIE_API int semillie_scan_backward(const struct semillie_scan *p, int64_t item);

#endif

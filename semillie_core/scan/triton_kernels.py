# mypy: ignore-errors
# ruff: noqa: ANN001, ANN201, ANN202  (Triton's arguments are traced, not typed)
"""Triton kernels of the four-direction scan: all directions in one launch, by index, without copies.

The raster (pair 0) and the column-wise sequence (pair 1) are cut into chunks of ``T`` tokens that run in parallel.
A program holds one chunk of ``E_BLOCK`` channels and treats it in both senses of its pair, so that the two outputs
are added before they are written. Three steps make the chunks independent: local end states, a carry over the
chunks, and the outputs from the true initial states; the backward pass repeats them for the adjoint.

Sizes: ``x`` ``(batch, L, E)``; a row of ``projection`` holds ``R`` low-rank steps, ``N`` values of B and ``N`` of C
for each of the four directions; states ``(batch, 4, chunks, N, E)``. Chunks are numbered by position, so a reverse
direction visits them from last to first.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _after(decay1, value1, decay2, value2):
    return decay1 * decay2, decay2 * value1 + value2


@triton.jit
def _token(s, PAIR, H, W):
    """Memory index of place ``s`` of a sequence."""
    return tl.where(PAIR == 0, s, (s % H) * W + s // H)


@triton.jit
def _softplus(x):
    z = tl.exp(-tl.abs(x))
    # log(1 + z) = 2 artanh(z / (2 + z)): accurate for small z, where a hardware logarithm near 1 is not.
    s = z / (2.0 + z)
    w = s * s
    series = ((0.14005996286869049 * w + 0.14000901579856873) * w + 0.2001076340675354) * w
    return tl.maximum(x, 0.0) + 2.0 * s * ((series + 0.3333320915699005) * w + 1.0)


@triton.jit
def _raw_steps(row, valid, weight, bias, e, in_range, R: tl.constexpr):
    """Step sizes before softplus, ``(T, E_BLOCK)``; ``row`` points at each token's low-rank steps."""
    raw = tl.load(bias + e, mask=in_range, other=0.0)[None, :]
    for r in tl.static_range(R):
        low = tl.load(row + r, mask=valid, other=0.0)
        raw = raw + low[:, None] * tl.load(weight + e * R + r, mask=in_range, other=0.0)[None, :]
    return raw


@triton.jit
def _steps(row, valid, weight, bias, e, in_range, R: tl.constexpr):
    """Step sizes; 0 for places outside the sequence, which then change no state."""
    raw = _raw_steps(row, valid, weight, bias, e, in_range, R)
    return tl.where(valid[:, None] & in_range[None, :], _softplus(raw), 0.0)


@triton.jit
def chunk_ends(
    x, projection, weight, bias, A, ends, sums, L, H, W, E, N, chunks,
    R: tl.constexpr, T: tl.constexpr, E_BLOCK: tl.constexpr,
):  # fmt: skip
    """Local end state and total step size of every chunk, from a zero state."""
    chunk, e = tl.program_id(0), tl.program_id(1) * E_BLOCK + tl.arange(0, E_BLOCK)
    batch, pair = tl.program_id(2) // 2, tl.program_id(2) % 2
    t = tl.arange(0, T)
    s = chunk * T + t
    valid, in_range = s < L, e < E
    token = (batch * L + _token(s, pair, H, W)).to(tl.int64)
    u = tl.load(x + token[:, None] * E + e[None, :], mask=valid[:, None] & in_range[None, :], other=0.0)
    for sense in tl.static_range(2):
        k = pair + 2 * sense
        row = projection + token * 4 * (R + 2 * N) + k * (R + 2 * N)
        dt = _steps(row, valid, weight + k * E * R, bias + k * E, e, in_range, R)
        weighted = dt * u
        here = ((batch * 4 + k) * chunks + chunk).to(tl.int64)
        tl.store(sums + here * E + e, tl.sum(dt, 0), mask=in_range)
        last = T - 1 if sense == 0 else 0
        for n in range(N):
            rate = tl.load(A + (k * E + e) * N + n, mask=in_range, other=0.0)
            B = tl.load(row + R + n, mask=valid, other=0.0)
            decay = tl.exp(dt * rate[None, :])
            _, h = tl.associative_scan((decay, weighted * B[:, None]), 0, _after, reverse=sense == 1)
            end = tl.sum(tl.where(t[:, None] == last, h, 0.0), 0)
            tl.store(ends + (here * N + n) * E + e, end, mask=in_range)


@triton.jit
def carry(local, sums, A, E, N, chunks, ADJOINT: tl.constexpr, E_BLOCK: tl.constexpr):
    """Replace each chunk's local result by the value that enters the chunk, in the order of visit."""
    e, n = tl.program_id(0) * E_BLOCK + tl.arange(0, E_BLOCK), tl.program_id(1)
    batch, k = tl.program_id(2) // 4, tl.program_id(2) % 4
    in_range = e < E
    rate = tl.load(A + (k * E + e) * N + n, mask=in_range, other=0.0)
    value = tl.zeros((E_BLOCK,), tl.float32)
    from_last = (k >= 2) != ADJOINT
    for i in range(chunks):
        chunk = tl.where(from_last, chunks - 1 - i, i)
        here = ((batch * 4 + k) * chunks + chunk).to(tl.int64)
        place = local + (here * N + n) * E + e
        added = tl.load(place, mask=in_range, other=0.0)
        total = tl.load(sums + here * E + e, mask=in_range, other=0.0)
        tl.store(place, value, mask=in_range)
        value = tl.exp(total * rate) * value + added


@triton.jit
def outputs(
    x, projection, weight, bias, A, D, initial, y, L, H, W, E, N, chunks, batches,
    R: tl.constexpr, T: tl.constexpr, E_BLOCK: tl.constexpr,
):  # fmt: skip
    """Outputs of every chunk, ``y`` ``(2, batch, L, E)`` by pair."""
    chunk, e = tl.program_id(0), tl.program_id(1) * E_BLOCK + tl.arange(0, E_BLOCK)
    batch, pair = tl.program_id(2) // 2, tl.program_id(2) % 2
    s = chunk * T + tl.arange(0, T)
    valid, in_range = s < L, e < E
    inside = valid[:, None] & in_range[None, :]
    token = (batch * L + _token(s, pair, H, W)).to(tl.int64)
    u = tl.load(x + token[:, None] * E + e[None, :], mask=inside, other=0.0)
    total = tl.zeros((T, E_BLOCK), tl.float32)
    for sense in tl.static_range(2):
        k = pair + 2 * sense
        row = projection + token * 4 * (R + 2 * N) + k * (R + 2 * N)
        dt = _steps(row, valid, weight + k * E * R, bias + k * E, e, in_range, R)
        weighted = dt * u
        total += tl.load(D + k * E + e, mask=in_range, other=0.0)[None, :] * u
        here = ((batch * 4 + k) * chunks + chunk).to(tl.int64)
        for n in range(N):
            rate = tl.load(A + (k * E + e) * N + n, mask=in_range, other=0.0)
            first = tl.load(initial + (here * N + n) * E + e, mask=in_range, other=0.0)
            B = tl.load(row + R + n, mask=valid, other=0.0)
            C = tl.load(row + R + N + n, mask=valid, other=0.0)
            decay = tl.exp(dt * rate[None, :])
            kept, h = tl.associative_scan((decay, weighted * B[:, None]), 0, _after, reverse=sense == 1)
            total += C[:, None] * (h + kept * first[None, :])
    out = y + (pair.to(tl.int64) * batches * L + token)[:, None] * E + e[None, :]
    tl.store(out, total, mask=inside)


@triton.jit
def adjoint_ends(
    projection, weight, bias, A, grad_y, ends, L, H, W, E, N, chunks,
    R: tl.constexpr, T: tl.constexpr, E_BLOCK: tl.constexpr,
):  # fmt: skip
    """What each chunk alone sends back: exp(dt A) times the adjoint state of its first step."""
    chunk, e = tl.program_id(0), tl.program_id(1) * E_BLOCK + tl.arange(0, E_BLOCK)
    batch, pair = tl.program_id(2) // 2, tl.program_id(2) % 2
    t = tl.arange(0, T)
    s = chunk * T + t
    valid, in_range = s < L, e < E
    token = (batch * L + _token(s, pair, H, W)).to(tl.int64)
    gy = tl.load(grad_y + token[:, None] * E + e[None, :], mask=valid[:, None] & in_range[None, :], other=0.0)
    for sense in tl.static_range(2):
        k = pair + 2 * sense
        row = projection + token * 4 * (R + 2 * N) + k * (R + 2 * N)
        dt = _steps(row, valid, weight + k * E * R, bias + k * E, e, in_range, R)
        here = ((batch * 4 + k) * chunks + chunk).to(tl.int64)
        first = 0 if sense == 0 else T - 1
        for n in range(N):
            rate = tl.load(A + (k * E + e) * N + n, mask=in_range, other=0.0)
            C = tl.load(row + R + N + n, mask=valid, other=0.0)
            decay = tl.exp(dt * rate[None, :])
            _, q = tl.associative_scan((decay, decay * gy * C[:, None]), 0, _after, reverse=sense == 0)
            end = tl.sum(tl.where(t[:, None] == first, q, 0.0), 0)
            tl.store(ends + (here * N + n) * E + e, end, mask=in_range)


@triton.jit
def gradients(
    x, projection, weight, bias, A, D, grad_y, initial, incoming,
    grad_x, grad_projection, grad_weight, grad_bias, grad_A, grad_D,
    L, H, W, E, N, chunks, batches,
    R: tl.constexpr, T: tl.constexpr, E_BLOCK: tl.constexpr,
):  # fmt: skip
    """All gradients of every chunk.

    ``grad_x`` is like ``y``; ``grad_projection`` ``(E blocks, batch, L, 4 (R + 2N))``; the others have leading axes
    ``(batch, 4, chunks)`` and ``(R, E)``, ``(E)``, ``(N, E)``, ``(E)``. The caller sums what repeats.
    """
    chunk, e = tl.program_id(0), tl.program_id(1) * E_BLOCK + tl.arange(0, E_BLOCK)
    batch, pair = tl.program_id(2) // 2, tl.program_id(2) % 2
    t = tl.arange(0, T)
    s = chunk * T + t
    valid, in_range = s < L, e < E
    inside = valid[:, None] & in_range[None, :]
    token = (batch * L + _token(s, pair, H, W)).to(tl.int64)
    u = tl.load(x + token[:, None] * E + e[None, :], mask=inside, other=0.0)
    gy = tl.load(grad_y + token[:, None] * E + e[None, :], mask=inside, other=0.0)
    grad_u = tl.zeros((T, E_BLOCK), tl.float32)
    width = 4 * (R + 2 * N)
    for sense in tl.static_range(2):
        k = pair + 2 * sense
        column = k * (R + 2 * N)
        row = projection + token * width + column
        raw = _raw_steps(row, valid, weight + k * E * R, bias + k * E, e, in_range, R)
        dt = tl.where(inside, _softplus(raw), 0.0)
        weighted = dt * u
        # Step sizes of the following token; the chunk's last token hands over what comes in unchanged.
        s_next = s + 1 if sense == 0 else s - 1
        last = T - 1 if sense == 0 else 0
        has_next = (s_next >= 0) & (s_next < L) & (t != last)
        token_next = (batch * L + _token(tl.where(has_next, s_next, 0), pair, H, W)).to(tl.int64)
        row_next = projection + token_next * width + column
        dt_next = _steps(row_next, has_next, weight + k * E * R, bias + k * E, e, in_range, R)

        here = ((batch * 4 + k) * chunks + chunk).to(tl.int64)
        out_row = grad_projection + (tl.program_id(1).to(tl.int64) * batches * L + token) * width + column
        grad_weighted = tl.zeros((T, E_BLOCK), tl.float32)
        grad_dt = tl.zeros((T, E_BLOCK), tl.float32)
        for n in range(N):
            rate = tl.load(A + (k * E + e) * N + n, mask=in_range, other=0.0)
            first = tl.load(initial + (here * N + n) * E + e, mask=in_range, other=0.0)
            behind = tl.load(incoming + (here * N + n) * E + e, mask=in_range, other=0.0)
            B = tl.load(row + R + n, mask=valid, other=0.0)
            C = tl.load(row + R + N + n, mask=valid, other=0.0)
            added = weighted * B[:, None]
            decay = tl.exp(dt * rate[None, :])
            kept, h = tl.associative_scan((decay, added), 0, _after, reverse=sense == 1)
            h += kept * first[None, :]
            kept, g = tl.associative_scan(
                (tl.exp(dt_next * rate[None, :]), gy * C[:, None]), 0, _after, reverse=sense == 0
            )
            g += kept * behind[None, :]
            tl.store(out_row + R + n, tl.sum(tl.where(inside, g * weighted, 0.0), 1), mask=valid)
            tl.store(out_row + R + N + n, tl.sum(tl.where(inside, gy * h, 0.0), 1), mask=valid)
            grad_weighted += g * B[:, None]
            exponent = g * (h - added)
            grad_dt += exponent * rate[None, :]
            tl.store(grad_A + (here * N + n) * E + e, tl.sum(exponent * dt, 0), mask=in_range)
        skip = tl.load(D + k * E + e, mask=in_range, other=0.0)
        grad_u += grad_weighted * dt + skip[None, :] * gy
        grad_raw = tl.where(inside, (grad_dt + grad_weighted * u) * tl.sigmoid(raw), 0.0)
        tl.store(grad_bias + here * E + e, tl.sum(grad_raw, 0), mask=in_range)
        tl.store(grad_D + here * E + e, tl.sum(gy * u, 0), mask=in_range)
        for r in tl.static_range(R):
            low = tl.load(row + r, mask=valid, other=0.0)
            w = tl.load(weight + (k * E + e) * R + r, mask=in_range, other=0.0)
            tl.store(grad_weight + (here * R + r) * E + e, tl.sum(grad_raw * low[:, None], 0), mask=in_range)
            tl.store(out_row + r, tl.sum(grad_raw * w[None, :], 1), mask=valid)
    out = grad_x + (pair.to(tl.int64) * batches * L + token)[:, None] * E + e[None, :]
    tl.store(out, grad_u, mask=inside)

"""Slow and plain formulas of the method, for the tests of fam_det.core to compare with.

Written from the definitions (arXiv 2403.05894 and its supplement), as loops over explicit DFT sums,
windows and grid points. Nothing here imports fam_det, nothing is meant to be fast, and everything
is differentiable.

Legend: N batch, I input and O output channels, H and W map size, V = W // 2 + 1 columns of the half
plane, G grid size; k and m bins of the full plane, u = signed(k, H) and v = signed(m, W) their
frequencies.
"""

import cmath
import math
from collections.abc import Sequence
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


# ---------------------------------------------------------------- spectra


def signed(k: int, n: int) -> int:
    """The frequency of bin ``k`` of ``n``, in cycles a map: 0, 1, ... then the negative ones."""
    return k if 2 * k < n else k - n


def dft_matrix(n: int) -> Tensor:
    """exp(-2 pi i k y / n), complex128 (n, n)."""
    # k * y is reduced modulo n while it is an integer: the phase is then exact to rounding
    rows = [[cmath.exp(-2j * math.pi * ((k * y) % n) / n) for y in range(n)] for k in range(n)]
    return torch.tensor(rows, dtype=torch.complex128)


def full_from_half(half: Tensor, width: int) -> Tensor:
    """(H, V, ...) to (H, W, ...) by K(-u, -v) = conj K(u, v), for a Hermitian ``half``."""
    height = half.shape[0]
    rows = []
    for k in range(height):
        row = [half[k, m] for m in range(width // 2 + 1)]
        row += [half[(-k) % height, width - m].conj() for m in range(width // 2 + 1, width)]
        rows.append(torch.stack(row))
    return torch.stack(rows)


def hermitian_part(full: Tensor) -> Tensor:
    """(K(u, v) + conj K(-u, -v)) / 2: all of a filter that a real map and a real part can see."""
    height, width = full.shape[:2]
    rows = []
    for k in range(height):
        row = [(full[k, m] + full[-k % height, -m % width].conj()) / 2 for m in range(width)]
        rows.append(torch.stack(row))
    return torch.stack(rows)


def applied_half(stored: Tensor, width: int) -> Tensor:
    """The filter a storage (H, V, ..., 2) stands for: complex (H, V, ...)."""
    s = torch.view_as_complex(stored.double().contiguous())
    height = s.shape[0]
    rows = []
    for k in range(height):
        row = []
        for m in range(width // 2 + 1):
            own_mirror = m == 0 or 2 * m == width
            row.append((s[k, m] + s[-k % height, m].conj()) / 2 if own_mirror else s[k, m] / 2**0.5)
        rows.append(torch.stack(row))
    return torch.stack(rows)


def stored_half(full: Tensor) -> Tensor:
    """The storage of a full complex spectrum (H, W, ...): real (H, V, ..., 2)."""
    width = full.shape[1]
    symmetric = hermitian_part(full)
    columns = []
    for m in range(width // 2 + 1):
        own_mirror = m == 0 or 2 * m == width
        columns.append(full[:, m] if own_mirror else 2**0.5 * symmetric[:, m])
    return torch.view_as_real(torch.stack(columns, dim=1))


def banded_half(stored: Tensor, height: int, width: int) -> Tensor:
    """Every bin takes the matrix of the nearest grid cell, ties to the even one: (H, V, I, O)."""
    grid = stored.shape[0]
    cells = applied_half(stored, grid)
    rows = []
    for k in range(height):
        cell_row = round(Fraction(signed(k, height) * grid, height)) % grid
        rows.append(
            torch.stack(
                [cells[cell_row, round(Fraction(m * grid, width))] for m in range(width // 2 + 1)]
            )
        )
    return torch.stack(rows)


def separable_half(stored_gain: Tensor, mix: Tensor, height: int, width: int) -> Tensor:
    """Bilinear between the grid points, periodic in the rows, then mixed: (H, V, I, O)."""
    grid = stored_gain.shape[0]
    points = applied_half(stored_gain, grid)  # (G, G/2 + 1, I)
    rows = []
    for k in range(height):
        at_row = Fraction(signed(k, height) * grid, height)
        r, a = math.floor(at_row), float(at_row - math.floor(at_row))
        row = []
        for m in range(width // 2 + 1):
            at_column = Fraction(m * grid, width)
            c, b = math.floor(at_column), float(at_column - math.floor(at_column))
            d = min(c + 1, grid // 2)  # b is 0 where c is the last column
            gain = (1 - a) * (1 - b) * points[r % grid, c] + a * (1 - b) * points[(r + 1) % grid, c]
            gain = gain + (1 - a) * b * points[r % grid, d] + a * b * points[(r + 1) % grid, d]
            row.append(gain[:, None] * mix.double().T)
        rows.append(torch.stack(row))
    return torch.stack(rows)


# ---------------------------------------------------------------- high-pass filters


def high_pass_full(kind: str, height: int, width: int, cutoff: float, order: int = 2) -> Tensor:
    """h over the full plane, float64 (H, W)."""
    h = torch.ones(height, width, dtype=torch.float64)
    if height == width == 1 or cutoff == 0:
        return h
    for k in range(height):
        for m in range(width):
            fy, fx = 2 * min(k, height - k) / height, 2 * min(m, width - m) / width
            d = math.hypot(fy, fx)
            if kind == "ideal":
                h[k, m] = 0.0 if fy < cutoff and fx < cutoff else 1.0
            elif kind == "gaussian":
                h[k, m] = 1 - math.exp(-(d**2) / (2 * cutoff**2))
            elif kind == "butterworth":
                h[k, m] = 0.0 if d == 0 else 1 / (1 + (cutoff / d) ** (2 * order))
    return h


def released_window(height: int, width: int, cut_on: float = 0.1) -> Tensor:
    """The window of the released code: a box in the centred spectrum, lopsided by one."""
    cy, cx = height // 2, width // 2
    rh, rw = int(cut_on * cy), int(cut_on * cx)
    h = torch.ones(height, width, dtype=torch.float64)
    for k in range(height):
        for m in range(width):
            centred_row, centred_column = cy + signed(k, height), cx + signed(m, width)
            in_rows = cy - rh <= centred_row < cy + rh
            if in_rows and cx - rw <= centred_column < cx + rw:
                h[k, m] = 0.0
    return h


# ---------------------------------------------------------------- frequency attention


def conv1x1(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """sum_i weight[o, i] x[n, i] + bias[o]."""
    out = torch.einsum("nihw,oi->nohw", x, weight.flatten(1))
    return out if bias is None else out + bias[:, None, None]


def spectral_filter(x: Tensor, full: Tensor) -> Tensor:
    """Re IFFT(K . FFT(x)) by DFT sums over the full plane: (N, I, H, W) -> (N, O, H, W)."""
    height, width = x.shape[2:]
    rows, columns = dft_matrix(height), dft_matrix(width)
    bins = torch.einsum("ky,niyx,lx->nikl", rows, x.to(torch.complex128), columns)
    filtered = torch.stack(
        [
            torch.stack([bins[:, :, k, m] @ full[k, m] for m in range(width)], dim=-1)
            for k in range(height)
        ],
        dim=-2,
    )  # (N, O, H, W)
    out = torch.einsum("ky,nokl,lx->noyx", rows.conj(), filtered, columns.conj())
    return out.real / (height * width)


def pooled(x: Tensor, side: int) -> Tensor:
    """Means over cells floor(i H / side) to ceil((i + 1) H / side), columns alike."""
    height, width = x.shape[2:]
    rows = [slice(i * height // side, -(-(i + 1) * height // side)) for i in range(side)]
    columns = [slice(j * width // side, -(-(j + 1) * width // side)) for j in range(side)]
    return torch.stack(
        [torch.stack([x[:, :, r, c].mean((2, 3)) for c in columns], dim=-1) for r in rows], dim=-2
    )


def enlarged(x: Tensor, height: int, width: int) -> Tensor:
    """Bilinear between pixel centres, constant beyond the outermost."""
    weights = []
    for size, n in ((height, x.shape[2]), (width, x.shape[3])):
        weight = torch.zeros(size, n, dtype=x.dtype)
        for i in range(size):
            at = min(max((i + 0.5) * n / size - 0.5, 0.0), n - 1.0)
            low = min(math.floor(at), n - 1)
            weight[i, low] += 1 - (at - low)
            weight[i, min(low + 1, n - 1)] += at - low
        weights.append(weight)
    return torch.einsum("hy,ncyx,wx->nchw", weights[0], x, weights[1])


def frequency_attention(
    x: Tensor, state: State, *, filter: str, high_pass: str, cutoff: float, order: int = 2
) -> Tensor:
    """FAM of float64 maps with the parameters in ``state``, named as in FrequencyAttention."""
    height, width = x.shape[2:]
    local_branch = conv1x1(x, state["local.weight"], state["local.bias"])
    if filter == "pooled":
        small = pooled(x, state["filter.dense.weight"].shape[0])
        dense = state | {"filter.weight": state["filter.dense.weight"]}
        if height == width == 1:
            high_pass = "none"
        dense |= {"gamma_global": torch.ones(1), "gamma_local": torch.zeros(1)}
        small = frequency_attention(
            small, dense, filter="dense", high_pass=high_pass, cutoff=cutoff, order=order
        )
        global_branch = enlarged(small, height, width)
        return state["gamma_global"] * global_branch + state["gamma_local"] * local_branch
    if filter == "dense":
        half = applied_half(state["filter.weight"], width)
    elif filter == "banded":
        half = banded_half(state["filter.weight"], height, width)
    else:
        mix = state["filter.mix.weight"].flatten(1)
        half = separable_half(state["filter.gain"], mix, height, width)
    h = high_pass_full(high_pass, height, width, cutoff, order)
    global_branch = spectral_filter(x, h[..., None, None] * full_from_half(half, width))
    return state["gamma_global"] * global_branch + state["gamma_local"] * local_branch


# ---------------------------------------------------------------- fusion


def window_attention(
    query: Tensor, key: Tensor, value: Tensor, row_offset: Tensor, column_offset: Tensor
) -> Tensor:
    """Softmax over the window, for each channel alone; keys and values are zero outside the map."""
    n_images, channels, height, width = query.shape
    window = row_offset.shape[1]
    zero = query.new_zeros(())
    out = []
    for n in range(n_images):
        for c in range(channels):
            by_row = c < channels // 2
            offsets = row_offset[c] if by_row else column_offset[c - channels // 2]
            for y in range(height):
                for x in range(width):
                    logits, values = [], []
                    for a in range(window):
                        for b in range(window):
                            i, j = y + a - window // 2, x + b - window // 2
                            inside = 0 <= i < height and 0 <= j < width
                            k = key[n, c, i, j] if inside else zero
                            k = k + offsets[a if by_row else b]
                            logits.append(query[n, c, y, x] * k)
                            values.append(value[n, c, i, j] if inside else zero)
                    weights = torch.stack(logits).exp()
                    out.append((weights * torch.stack(values)).sum() / weights.sum())
    return torch.stack(out).view(n_images, channels, height, width)


def window_cross_attention(student_map: Tensor, residual: Tensor, state: State) -> Tensor:
    """The fusion of FAM-KD with the parameters in ``state``, named as in WindowCrossAttention."""
    return window_attention(
        conv1x1(residual, state["query.weight"]),
        conv1x1(student_map, state["key.weight"]),
        conv1x1(student_map, state["value.weight"]),
        state["row_offset"],
        state["column_offset"],
    )


def attention_based_fusion(student_map: Tensor, residual: Tensor, state: State) -> Tensor:
    """ABF of ReviewKD, position by position."""
    weight, bias = state["gate.weight"].flatten(1), state["gate.bias"]  # (2, 2C), (2,)
    out = torch.zeros_like(student_map)
    for n in range(len(student_map)):
        for i in range(student_map.shape[2]):
            for j in range(student_map.shape[3]):
                x, y = student_map[n, :, i, j], residual[n, :, i, j]
                z = 1 / (1 + torch.exp(-(weight @ torch.cat([x, y]) + bias)))
                out[n, :, i, j] = z[0] * x + z[1] * y
    return out


# ---------------------------------------------------------------- the released networks


def sub_state(state: State, prefix: str) -> State:
    """The entries below ``prefix``, named relative to it."""
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def batch_norm(x: Tensor, state: State) -> Tensor:
    """BatchNorm by the running statistics."""
    shape = (1, -1, 1, 1)
    mean, var = state["running_mean"].view(shape), state["running_var"].view(shape)
    scaled = (x - mean) / (var + 1e-5).sqrt() * state["weight"].view(shape)
    return scaled + state["bias"].view(shape)


def conv_norm_relu(x: Tensor, state: State) -> Tensor:
    """1x1 convolution, BatchNorm, ReLU; the map itself where there are no such layers."""
    return batch_norm(conv1x1(x, state["0.weight"]), sub_state(state, "1.")).relu() if state else x


def released_fam(x: Tensor, state: State) -> Tensor:
    """FAM of the released code: the real part of a full complex transform."""
    full = state["weights1"].permute(2, 3, 0, 1).to(torch.complex128)  # (H, W, I, O)
    h = released_window(*x.shape[2:])
    spectrum = torch.fft.fft2(x)  # one at a size of 40; spectral_filter is the same, slowly
    filtered = torch.einsum("nihw,hwio->nohw", spectrum, h[..., None, None] * full)
    local_branch = conv1x1(x, state["w0.weight"], state["w0.bias"])
    return state["rate1"] * torch.fft.ifft2(filtered).real + state["rate2"] * local_branch


def released_attention(student_map: Tensor, residual: Tensor, state: State) -> Tensor:
    """Window attention of the released code; the window positions as shifted maps."""
    query = conv1x1(residual, state["query_conv.weight"])
    key = F.pad(conv1x1(student_map, state["key_conv.weight"]), [1, 1, 1, 1])
    value = F.pad(conv1x1(student_map, state["value_conv.weight"]), [1, 1, 1, 1])
    by_row, by_column = state["rel_h"].view(-1, 3), state["rel_w"].view(-1, 3)
    height, width = query.shape[2:]
    total, out = torch.zeros_like(query), torch.zeros_like(query)
    for a in range(3):
        for b in range(3):
            offset = torch.cat([by_row[:, a], by_column[:, b]]).view(1, -1, 1, 1)
            weight = (query * (key[:, :, a : a + height, b : b + width] + offset)).exp()
            total = total + weight
            out = out + weight * value[:, :, a : a + height, b : b + width]
    return out / total


def nearest(x: Tensor, size: int) -> Tensor:
    """Nearest neighbour: output cell i of n shows input cell floor(i * m / n) of m."""
    rows = [i * x.shape[2] // size for i in range(size)]
    columns = [j * x.shape[3] // size for j in range(size)]
    return x[:, :, rows][:, :, :, columns]


def released_block(
    student_map: Tensor, residual: Tensor | None, state: State, out_size: int
) -> tuple[Tensor, Tensor]:
    """One fusion block: the map to compare with the teacher's, and the next residual."""
    x = conv_norm_relu(student_map, sub_state(state, "conv1_x."))
    if residual is not None:
        y = nearest(conv_norm_relu(residual, sub_state(state, "conv1.")), x.shape[2])
        x = released_attention(x, y, sub_state(state, "att_conv."))
    x = nearest(x, out_size)
    out = released_fam(x, sub_state(state, "conv2.0."))
    return batch_norm(out, sub_state(state, "conv2.1.")).relu(), x


def released_distiller(maps: Sequence[Tensor], state: State, sizes: Sequence[int]) -> list[Tensor]:
    """All stages from the deepest up; maps, sizes and result from shallow to deep."""
    residual, outputs = None, []
    for i, (x, size) in enumerate(zip(maps[::-1], sizes[::-1], strict=True)):
        out, residual = released_block(x, residual, sub_state(state, f"atfs.{i}."), size)
        outputs.append(out)
    return outputs[::-1]


# ---------------------------------------------------------------- random released parameters


def random_batch_norm(channels: int) -> State:
    """Parameters and running statistics that no initial value resembles."""
    return {
        "weight": torch.rand(channels) + 0.5,
        "bias": torch.randn(channels),
        "running_mean": torch.randn(channels),
        "running_var": torch.rand(channels) + 0.5,
        "num_batches_tracked": torch.tensor(7),
    }


def random_conv_norm(in_channels: int, out_channels: int) -> State:
    """A 1x1 convolution (0) and its BatchNorm (1)."""
    weight = torch.randn(out_channels, in_channels, 1, 1) / in_channels**0.5
    return {"0.weight": weight, **prefixed("1.", random_batch_norm(out_channels))}


def random_released_fam(
    in_channels: int, out_channels: int, height: int, width: int | None = None
) -> State:
    """weights1 without any symmetry."""
    shape = (in_channels, out_channels, height, width or height)
    return {
        "weights1": torch.randn(shape, dtype=torch.complex64),
        "rate1": torch.tensor([0.7]),
        "rate2": torch.tensor([0.4]),
        "w0.weight": torch.randn(out_channels, in_channels, 1, 1),
        "w0.bias": torch.randn(out_channels),
    }


def random_released_attention(channels: int) -> State:
    """Three convolutions and the two offsets, in the released shapes."""
    convs = ("key_conv", "query_conv", "value_conv")
    return {
        **{f"{conv}.weight": torch.randn(channels, channels, 1, 1) / 2 for conv in convs},
        "rel_h": torch.randn(channels // 2, 1, 1, 3, 1),
        "rel_w": torch.randn(channels // 2, 1, 1, 1, 3),
    }


def random_released_block(
    student: int, residual: int, mid: int, teacher: int, size: int, *, fuse: bool
) -> State:
    """As the released block is built: with conv1 where widths differ, fused or not."""
    state: State = {}
    if residual != mid:
        state |= prefixed("conv1.", random_conv_norm(residual, mid))
    if student != mid:
        state |= prefixed("conv1_x.", random_conv_norm(student, mid))
    if fuse:
        state |= prefixed("att_conv.", random_released_attention(mid))
    state |= prefixed("conv2.0.", random_released_fam(mid, teacher, size))
    return state | prefixed("conv2.1.", random_batch_norm(teacher))


def prefixed(prefix: str, state: State) -> State:
    """The same entries below ``prefix``."""
    return {prefix + k: v for k, v in state.items()}


def as_double(state: State) -> State:
    """Floating and complex entries at double precision."""
    return {k: v.to(torch.complex128) if v.is_complex() else v.double() for k, v in state.items()}

"""Does one constant velocity explain a place's next and last frame? The matching gap, and the shift of a whole picture.

``matching_gap``: for a displacement d in a window of (2R+1)^2 pixels, and box the mean over 7 x 7 pixels,

    f(p, d) = box |x[t+1](p + d) - x[t](p)|        b(p, d) = box |x[t-1](p - d) - x[t](p)|
    S[t](p) = min_d [f + b] - (min_d f + min_d b)

S is 0 wherever the box moves with one whole-pixel velocity within R, also when everything does because the camera
pans, and large where the velocity before t is not the one after it. A plain second difference fires at every moving
edge. S also fires where something is covered or uncovered, and a little at velocities between pixels.

``dominant_shift``: by how many whole pixels most of a picture moves from one frame to the next.

Decisions.

- Brightness in 256 steps and sums of 16-bit integers: half the memory traffic of floats, exact, and equal on every
  device. 2 * 49 * 255 fits. As a minimum of sums is no less than the sum of minima, nothing needs clipping at 0.
- b is f of the frame before, moved by d: one difference and one box filter per displacement serve both.
- Frames are padded by R + 3 and laid end to end, so that every shift in time, rows or columns is an offset into one
  long vector: all arithmetic is on contiguous memory. What crosses a row or a frame lands in the padding.
- Outside of the frame the pixel at its edge is repeated.
- The dominant shift is the one of least squared difference with the picture wrapped around (the peak of the
  correlation, by FFT), and counts only where it more than halves the median change of a pixel: most of the picture
  has to agree, and a disc before an even background is not a moving camera. Whitening the correlation does harm: sharp
  edges of small things then outvote a smooth background.

Letters: B clips, F frames, H W pixels, R the radius of the search.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BOX = 7
_LEVELS = 255
_AT_ONCE = 2**18
"pixels of a pass on a CPU, so that they stay in its cache"


def matching_gap(brightness: Tensor, *, radius: int = 5) -> Tensor:
    """S of every pixel: float32 (B, F, H, W) of brightness (B, F, H, W) in [0, 1]; 0 in the first and last frame."""
    b, frames, height, width = brightness.shape
    if frames < 3:
        return torch.zeros_like(brightness, dtype=torch.float32)
    pad = radius + BOX // 2
    levels = F.pad((brightness.clamp(0, 1) * _LEVELS).round(), (pad,) * 4, mode="replicate").to(torch.int16)
    clips = b if levels.is_cuda else max(1, _AT_ONCE // levels[0].numel())
    gap = torch.cat([_gap(part.flatten(0, 1), radius) for part in levels.split(clips)])
    gap = gap.unflatten(0, (b, frames))[..., pad : pad + height, pad : pad + width].float() / (_LEVELS * BOX * BOX)
    gap[:, 0] = gap[:, -1] = 0
    return gap


def _gap(x: Tensor, radius: int) -> Tensor:
    """The gap in sums of levels, int16 (n, H, W) of padded frames (n, H, W); right where the padding ends."""
    frame, row = x[0].numel(), x.shape[2]
    reach, half = radius * (row + 1), BOX // 2 * (row + 1)
    flat = x.flatten()
    pairs = flat.numel() - frame - reach
    first, last = frame + reach + half, flat.numel() - frame - reach - half  # of what has both neighbours
    change, spare = flat.new_empty(pairs), flat.new_empty(pairs)
    together, after, before = (flat.new_full((last - first,), torch.iinfo(torch.int16).max) for _ in range(3))
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            offset = dy * row + dx
            torch.sub(flat[frame + offset :][:pairs], flat[:pairs], out=change).abs_()
            box = _sums_of_7(_sums_of_7(change, 1, spare), row, spare)  # of the box that begins there
            f = box[first - half :][: last - first]
            b = box[first - half - frame - offset :][: last - first]
            torch.minimum(after, f, out=after)
            torch.minimum(before, b, out=before)
            torch.minimum(together, torch.add(f, b, out=spare[: last - first]), out=together)
    out = torch.zeros_like(flat)
    out[first:last] = together - after - before
    return out.view_as(x)


def _sums_of_7(x: Tensor, stride: int, spare: Tensor) -> Tensor:
    """x[i] + x[i + stride] + ... + x[i + 6 stride], shorter than ``x`` by six strides; ``spare`` is overwritten."""
    n = x.numel() - 6 * stride
    twos = torch.add(x[: n + 5 * stride], x[stride:], out=spare[: n + 5 * stride])
    return (twos[:n] + twos[2 * stride :][:n]).add_(twos[4 * stride :][:n]).add_(x[6 * stride :])


def dominant_shift(brightness: Tensor) -> Tensor:
    """Rows and columns by which most of the picture moves, int64 (B, F - 1, 2), of brightness (B, F, H, W)."""
    height, width = brightness.shape[-2:]
    spectrum = torch.fft.rfft2(brightness)
    peak = torch.fft.irfft2(spectrum[:, 1:] * spectrum[:, :-1].conj(), s=(height, width)).flatten(2).argmax(-1)
    shift = torch.stack([_signed(peak // width, height), _signed(peak % width, width)], dim=-1)
    still = (brightness[:, 1:] - brightness[:, :-1]).abs().flatten(2).median(-1).values
    moved = (shifted(brightness[:, None, 1:], shift)[0][:, 0] - brightness[:, :-1]).abs().flatten(2).median(-1).values
    return shift * (2 * moved < still).unsqueeze(-1)


def shifted(x: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """x(p + shift) for frames (B, C, F, H, W) and shifts (B, F, 2), and where that is inside, bool (B, 1, F, H, W)."""
    height, width = x.shape[-2:]
    rows = torch.arange(height, device=x.device) + shift[..., :1]
    columns = torch.arange(width, device=x.device) + shift[..., 1:]
    inside = ((rows >= 0) & (rows < height))[..., None] & ((columns >= 0) & (columns < width))[..., None, :]
    at = rows.clamp(0, height - 1)[..., None] * width + columns.clamp(0, width - 1)[..., None, :]  # (B, F, H, W)
    at = at.flatten(2).unsqueeze(1).expand(-1, x.shape[1], -1, -1)
    return x.flatten(3).gather(3, at).view_as(x), inside.unsqueeze(1)


def _signed(x: Tensor, n: int) -> Tensor:
    """Shifts above a half, which wrap around, as negative ones."""
    return torch.where(x > n // 2, x - n, x)

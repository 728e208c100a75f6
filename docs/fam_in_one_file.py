"""FAM-KD in one file: the method as the paper writes it, to read and to copy.

Plain formulas: a full complex spectrum, one filter matrix a frequency, nine shifted copies in the
attention. The package ``fam_det.core`` gives the same numbers with half the spectrum and a fraction
of the memory; a test compares them. Run this file to train a toy student towards a toy teacher's
feature maps: python docs/fam_in_one_file.py

N batch, C channels, H and W map size. Maps are listed shallow (large) to deep (small).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def ideal_high_pass(height: int, width: int, cutoff: float) -> Tensor:
    """1, and 0 where both frequencies are below the cut-off, a fraction of Nyquist: (H, W)."""
    if height == width == 1:
        return torch.ones(1, 1)
    u = 2 * torch.fft.fftfreq(height).abs()[:, None]
    v = 2 * torch.fft.fftfreq(width).abs()[None, :]
    return 1.0 - ((u < cutoff) & (v < cutoff)).float()


class FAM(nn.Module):
    """gamma1 * IFFT(h * (K . FFT(x))) + gamma2 * Conv1x1(x)."""

    def __init__(self, c_in: int, c_out: int, size: int, cutoff: float = 0.1) -> None:
        super().__init__()
        k = torch.rand(c_out, c_in, size, size, dtype=torch.cfloat)
        self.K = nn.Parameter(k / (c_in * c_out))
        self.register_buffer("h", ideal_high_pass(size, size, cutoff))
        self.conv = nn.Conv2d(c_in, c_out, 1)
        self.gamma1 = nn.Parameter(torch.tensor(0.5))
        self.gamma2 = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, C_out, H, W)."""
        spectrum = torch.einsum("oiuv,niuv->nouv", self.K, torch.fft.fft2(x))
        return self.gamma1 * torch.fft.ifft2(self.h * spectrum).real + self.gamma2 * self.conv(x)


class WindowCrossAttention(nn.Module):
    """The residual asks, the 3x3 window of the student map answers, each channel on its own."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (
            nn.Conv2d(channels, channels, 1, bias=False) for _ in range(3)
        )
        self.rows = nn.Parameter(torch.randn(channels // 2, 3, 1))
        self.columns = nn.Parameter(torch.randn(channels // 2, 1, 3))

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """(N, C, H, W) twice -> (N, C, H, W)."""
        n, c, height, width = x.shape
        offset = torch.cat([self.rows.expand(-1, 3, 3), self.columns.expand(-1, 3, 3)])
        q = self.query(residual)[:, :, None]  # (N, C, 1, H, W)
        k, v = (
            F.unfold(conv(x), 3, padding=1).view(n, c, 9, height, width)
            for conv in (self.key, self.value)
        )
        k = k + offset.reshape(1, c, 9, 1, 1)
        return ((q * k).softmax(dim=2) * v).sum(dim=2)


class FAMKD(nn.Module):
    """Knowledge review: from the deepest stage up, fuse with what came from below, then FAM."""

    def __init__(self, c_student: list[int], c_mid: int, c_teacher: list[int], sizes: list[int]):
        super().__init__()
        self.sizes = sizes

        def project(c: int) -> nn.Module:
            if c == c_mid:
                return nn.Identity()
            conv = nn.Conv2d(c, c_mid, 1, bias=False)
            return nn.Sequential(conv, nn.BatchNorm2d(c_mid), nn.ReLU())

        self.projects = nn.ModuleList(project(c) for c in c_student)
        self.fusions = nn.ModuleList(WindowCrossAttention(c_mid) for _ in c_student[:-1])
        self.transforms = nn.ModuleList(
            nn.Sequential(FAM(c_mid, c, size), nn.BatchNorm2d(c), nn.ReLU())
            for c, size in zip(c_teacher, sizes, strict=True)
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Student maps -> maps to compare with the teacher's."""
        outputs: list[Tensor] = []
        residual = None
        for i in reversed(range(len(maps))):
            x = self.projects[i](maps[i])
            if residual is not None:
                x = self.fusions[i](x, F.interpolate(residual, x.shape[2:], mode="nearest"))
            x = F.interpolate(x, (self.sizes[i],) * 2, mode="nearest")
            outputs.insert(0, self.transforms[i](x))
            residual = x
        return outputs


def fam_loss(student: list[Tensor], teacher: list[Tensor], epoch: int, warmup: int = 20) -> Tensor:
    """Sum of the mean squared errors, times min(epoch / warm-up, 1)."""
    losses = [F.mse_loss(s, t.detach()) for s, t in zip(student, teacher, strict=True)]
    return min(epoch / warmup, 1.0) * torch.stack(losses).sum()


def main() -> None:
    """Fit toy student maps to toy teacher maps."""
    torch.manual_seed(0)
    sizes = [16, 8, 4]
    student = [torch.randn(8, c, s, s) for c, s in zip([8, 16, 32], sizes, strict=True)]
    teacher = [torch.rand(8, c, s, s) for c, s in zip([16, 32, 64], sizes, strict=True)]
    distiller = FAMKD([8, 16, 32], 16, [16, 32, 64], sizes)
    optimizer = torch.optim.SGD(distiller.parameters(), lr=0.05, momentum=0.9)
    for epoch in range(1, 41):
        loss = fam_loss(distiller(student), teacher, epoch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if epoch % 20 == 0:
            print(f"epoch {epoch}: loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
